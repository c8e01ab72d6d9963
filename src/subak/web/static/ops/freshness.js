/** Takes over what has changed, every two seconds while somebody can see it; holds still when asked to. */

import { askForText, Refused } from "./ask.js";

const EVERY_MS = 2_000;

export class Freshness {
  #hold = document.getElementById("hold");
  #place = document.getElementById("freshness");
  #stale = document.getElementById("stale");
  #onLook;
  #timer = 0;
  #isLooking = false;

  /** `onLook` is called at each look too. */
  constructor(onLook) {
    this.#onLook = onLook;
  }

  start() {
    this.#hold.hidden = false;
    this.#hold.addEventListener("click", () => this.#toggle());
    document.addEventListener("visibilitychange", () => this.#again(0));
    this.#again(0);
  }

  /** Look now, whatever was planned. */
  async look() {
    if (this.#isLooking) return;
    this.#isLooking = true;
    try {
      takeOver(await fetchPage());
      this.#tell("");
      await this.#onLook();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#tell(`, nothing newer. ${error.message}`);
    } finally {
      this.#isLooking = false;
    }
  }

  get #isHeld() {
    return this.#hold.getAttribute("aria-pressed") === "true";
  }

  #toggle() {
    this.#hold.setAttribute("aria-pressed", String(!this.#isHeld));
    this.#place.classList.toggle("held", this.#isHeld);
    this.#again(0);
  }

  #again(delayMs) {
    clearTimeout(this.#timer);
    if (this.#isHeld || document.hidden) return;
    this.#timer = setTimeout(async () => {
      try {
        await this.look();
      } finally {
        this.#again(EVERY_MS);
      }
    }, delayMs);
  }

  #tell(words) {
    this.#stale.textContent = words;
    this.#place.classList.toggle("stale", words !== "");
  }
}

async function fetchPage() {
  return new DOMParser().parseFromString(await askForText(location.pathname), "text/html");
}

/** Put what the fresh page says in place of what stands here. What is being typed stays. */
function takeOver(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(part.id);
    if (now === null) continue;
    if ("disabled" in part) part.disabled = now.disabled;
    if (part instanceof HTMLInputElement) part.defaultValue = now.defaultValue;
    else if (part.innerHTML !== now.innerHTML) part.replaceChildren(...now.childNodes);
  }
}
