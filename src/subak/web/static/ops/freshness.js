/** Takes over what has changed, every two seconds while somebody can see it; holds still when asked to. */

const EVERY_MS = 2_000;
const PATIENCE_MS = 10_000;

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
    this.#onLook();
    this.#again(EVERY_MS);
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
      this.#tell(error instanceof SyntaxError ? error.message : ": no answer since then");
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
      await this.look();
      this.#again(EVERY_MS);
    }, delayMs);
  }

  #tell(words) {
    this.#stale.textContent = words;
    this.#place.classList.toggle("stale", words !== "");
  }
}

async function fetchPage() {
  const response = await fetch(location.pathname, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!response.ok) throw new Error(String(response.status));
  return new DOMParser().parseFromString(await response.text(), "text/html");
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
