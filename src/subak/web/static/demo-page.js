/** The document's elements, and how they are filled. */

import { Answer } from "./demo-answer.js";
import { Chart, inSeconds } from "./demo-chart.js";
import { Frames } from "./demo-frames.js";
import { sourceItem } from "./demo-sources.js";

const FIGURES_EVERY_MS = 80;

export class Page {
  #at = Object.fromEntries([...document.querySelectorAll("[id]")].map((each) => [each.id, each]));
  #answer = new Answer(this.#at.answer, this.#at.spoken);
  #chart = new Chart(this.#at.chart);
  #figuredAt = 0;
  #waitsUntil = 0;

  /** The frames as they come. */
  frames = new Frames(this.#at.frames);

  constructor() {
    this.#at["frames-part"].open = !matchMedia("(max-width: 40rem)").matches;
    this.#chart.clear();
  }

  get query() {
    return this.#at.query.value.trim();
  }

  set query(text) {
    this.#at.query.value = text;
  }

  /** Headers that say who asks: none, unless a key was given. It is kept nowhere else. */
  credentials() {
    const key = this.#at.key.value.trim();
    return key === "" ? {} : { Authorization: `Bearer ${key}` };
  }

  /** Call back on what a person does. */
  listen({ ask, cut, switchOffOrOn, stop }) {
    this.#at.ask.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.query !== "") ask(this.query);
    });
    for (const button of document.querySelectorAll(".suggestion")) {
      button.addEventListener("click", () => {
        this.query = button.textContent;
        ask(this.query);
      });
    }
    this.#at.cut.addEventListener("click", cut);
    this.#at.off.addEventListener("click", switchOffOrOn);
    this.#at.stop.addEventListener("click", stop);
    this.#at.copy.addEventListener("click", () => this.#copyCommand());
    this.#at.plain.addEventListener("click", () => this.#turnPlain());
  }

  /** Make room for a new answer. */
  begin() {
    const isAnswerInSight = this.#at.line.getBoundingClientRect().bottom < innerHeight * 0.6;
    if (!isAnswerInSight) this.#at.line.scrollIntoView();
    this.#answer.clear();
    this.#chart.clear();
    this.frames.clear();
    this.sources([]);
    this.#at.second.hidden = this.#at.gateway.hidden = this.#at["key-part"].hidden = true;
    this.#at.answer.setAttribute("aria-busy", "true");
  }

  enter(phase, status, delayMs) {
    this.#at.line.dataset.phase = phase;
    if (this.#at.status.textContent !== status) this.#at.status.textContent = status; // Said once.
    this.#waitsUntil = performance.now() + delayMs;
  }

  allow({ canCut, canSwitch, canStop, isOff }) {
    this.#at.cut.setAttribute("aria-disabled", String(!canCut));
    this.#at.off.setAttribute("aria-disabled", String(!canSwitch));
    this.#at.stop.setAttribute("aria-disabled", String(!canStop));
    this.#at.off.textContent = isOff ? "Switch tab on" : "Switch tab off";
    this.#at.answer.classList.toggle("off", isOff);
  }

  /** Show where the line broke, in the answer and among the frames. */
  seam(words, text) {
    this.#answer.show(text);
    this.#answer.seam(words);
    this.frames.mark(`✂ ${words}`);
  }

  sources(sources) {
    this.#at.sources.replaceChildren(...sources.map(sourceItem));
    this.#at["sources-part"].hidden = sources.length === 0;
  }

  /** Show how far the answer is. */
  show(stream, hasLine) {
    this.#answer.show(stream.text);
    this.frames.follow();
    const now = performance.now();
    const isOver = stream.state === "ended";
    if (now - this.#figuredAt < FIGURES_EVERY_MS && !isOver) return;
    this.#figuredAt = now;
    this.#countDown(isOver ? 0 : this.#waitsUntil - now);
    this.#figures(stream.metrics, stream.cursor);
    this.#chart.sample(stream.metrics.durationMs, stream.metrics.tokens, hasLine);
    this.#chart.draw();
    if (stream.streamId !== "") this.#at.second.href = `#${stream.streamId}`;
    this.#at.second.hidden = stream.streamId === "";
  }

  /** Nothing more comes. `gateway` is its own figures, if it told any. */
  finish(gateway) {
    this.#answer.finish();
    this.#at.answer.setAttribute("aria-busy", "false");
    this.#at.gateway.hidden = gateway === null;
    if (gateway === null) return;
    const [first, end] = [inMs(gateway.firstTokenLatency), inSeconds(gateway.duration)];
    this.#at.gateway.textContent = `The gateway’s own figures: first token after ${first}, ended after ${end}.`;
  }

  /** Ask for an API key, with the words of the refusal beside it. */
  wantKey() {
    this.#at["key-part"].hidden = false;
    this.#at.key.focus();
  }

  /** Show a request as a line for a shell. */
  command(line) {
    this.#at.curl.textContent = line;
  }

  #countDown(ms) {
    const text = ms > 0 ? `${Math.ceil(ms / 1000)} s` : "";
    if (this.#at.countdown.textContent !== text) this.#at.countdown.textContent = text;
  }

  #figures(metrics, cursor) {
    const { firstTokenMs, interTokenP50Ms, interTokenP95Ms, interTokenP99Ms } = metrics;
    const { tokens, bytes, reconnects, duplicates, gaps } = metrics;
    const shown = {
      "first-token": inMs(firstTokenMs),
      p50: inMs(interTokenP50Ms),
      p95: inMs(interTokenP95Ms),
      p99: inMs(interTokenP99Ms),
      tokens,
      bytes: bytes < 1_000 ? `${bytes} B` : `${(bytes / 1_000).toFixed(1)} KB`,
      reconnects,
      duplicates,
      gaps,
      cursor: cursor === "" ? "–" : cursor.slice(cursor.lastIndexOf(".") + 1),
    };
    for (const [id, value] of Object.entries(shown)) this.#at[id].textContent = value;
    const { downMs } = this.#chart;
    const down = downMs > 0 ? `; no line for ${inSeconds(downMs)} of that` : "";
    this.#at["chart-words"].textContent = tokens === 0 ? "" : `${tokens} ${tokens === 1 ? "token" : "tokens"}${down}`;
  }

  #turnPlain() {
    const isPlain = this.#at.plain.getAttribute("aria-pressed") !== "true";
    this.#at.plain.setAttribute("aria-pressed", String(isPlain));
    this.#answer.isPlain = isPlain;
  }

  async #copyCommand() {
    const { copy, curl } = this.#at;
    try {
      await navigator.clipboard.writeText(curl.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(curl); // Without TLS a page may not write to the clipboard.
      copy.textContent = "Press Ctrl+C";
    }
    setTimeout(() => {
      copy.textContent = "Copy";
    }, 2_000);
  }
}

function inMs(ms) {
  if (ms == null) return "–";
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
