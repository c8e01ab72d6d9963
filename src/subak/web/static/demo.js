/**
 * The demo page: one question at a time over the browser's own EventSource.
 *
 * `AnswerReader` holds the line and follows the reader's rule (reader.js). `Page` shows what it is told. What a model or
 * a document said is only ever inserted as text.
 */

import { NOTHING_READ, applied, backOffMs, cursorOf, dropped, judge, repaired } from "./reader.js";

const ASK_PATH = "/api/v2/bali-zero/chat-stream";
const CUT_MS = 1_500;
const SILENCE_MS = 75_000; // 2.5 heartbeats of 30 s: a line that says nothing for longer is dead.
const MAX_ATTEMPTS = 8;
const MAX_FRAMES = 400;

const ENDINGS = {
  stop: "Complete.",
  length: "Ended at its greatest length.",
  content_filter: "Ended by a content filter.",
  cancelled: "Stopped. What had come by then is kept.",
  abandoned: "Ended by the gateway: nobody was listening any more.",
};

const SWITCHED_OFF =
  "Streaming is switched off here. Start the gateway with ENABLE_SSE_STREAMING=true, or try: subak demo";
const UNREACHABLE = "The gateway can’t be reached. Is it running? Ask again when it is.";
const REFUSED =
  "The gateway refused this question. Most often that means too many questions within a minute: wait a little and ask " +
  "again. The curl line shows its exact answer.";
const GONE = "The gateway no longer keeps this answer; it may have been restarted. What had come by then stands below.";

/** One question after another: asks, reads, cuts, resumes, stops. Tells `page` of everything. */
class AnswerReader {
  #page;
  #answer = NOTHING_READ;
  #source = null;
  #query = "";
  #phase = "idle";
  #figures = newFigures(0); // One object a question: whoever awaited something sees by it that another was asked.
  #attempt = 0;
  #timer = 0;
  #silence = 0;

  constructor(page) {
    this.#page = page;
  }

  /** Ask. A question that is still being answered is stopped first, unless it is the same one. */
  ask(query) {
    if (this.#isOpen && query === this.#query) return;
    if (this.#isOpen) this.stop();
    this.#close();
    this.#query = query;
    this.#answer = NOTHING_READ;
    this.#figures = newFigures(performance.now());
    this.#attempt = 0;
    this.#page.begin();
    this.#enter("connecting", "Asking …");
    this.#open(urlOf(ASK_PATH, { query }));
  }

  /** Lose the connection as a broken network would, and come back with the cursor a moment later. */
  cut() {
    if (this.#phase !== "live") return;
    this.#close();
    this.#page.seam(`line cut after event ${this.#answer.last}`);
    this.#enter("cut", `Line cut after event ${this.#answer.last}. The gateway writes on; resuming in a moment …`);
    this.#timer = setTimeout(() => this.#resume(), CUT_MS);
  }

  /** End the answer for good. The gateway then sends its terminal event, with the reason `cancelled`. */
  async stop() {
    if (!this.#isOpen || this.#answer.streamId === null) return;
    const figures = this.#figures;
    const stopped = await request(`${statusPath(this.#answer)}/stop`, { method: "POST" });
    if (!stopped.ok && figures === this.#figures) this.#page.status("Stop didn’t reach the gateway. Try once more.");
  }

  get #isOpen() {
    return ["connecting", "live", "cut", "resuming"].includes(this.#phase);
  }

  #enter(phase, status) {
    this.#phase = phase;
    this.#page.enter(phase, status, { canCut: phase === "live", canStop: this.#isOpen && this.#answer.last > 0 });
  }

  #open(url) {
    const source = new EventSource(url);
    this.#source = source;
    this.#page.command(url);
    source.onopen = () => this.#opened();
    source.onmessage = (message) => this.#received(message);
    source.addEventListener("heartbeat", (message) => this.#beat(message));
    source.onerror = () => this.#lost(source);
    this.#watchSilence();
  }

  #close() {
    this.#source?.close();
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
  }

  #resume() {
    const cursor = cursorOf(this.#answer);
    const url = urlOf(`${statusPath(this.#answer)}/events`, { last_event_id: cursor });
    this.#page.mark(`GET ${url.pathname}${url.search}`);
    this.#enter("resuming", `Resuming after event ${this.#answer.last} …`);
    this.#open(url);
  }

  #opened() {
    this.#attempt = 0;
    this.#watchSilence();
    if (this.#answer.last === 0) return;
    this.#figures.reconnects += 1;
    this.#page.figures(this.#figures, this.#answer);
    this.#enter("live", `Resumed after event ${this.#answer.last}. Nothing was asked twice.`);
  }

  #received(message) {
    const event = JSON.parse(message.data);
    const verdict = judge(this.#answer.last, event.sequence);
    this.#watchSilence();
    this.#page.frame(message, { isDropped: verdict === "drop" });
    if (verdict === "gap") {
      this.#close();
      this.#repair();
      return;
    }
    const before = this.#answer;
    this.#answer = verdict === "drop" ? dropped(before) : applied(before, event);
    if (verdict === "apply") this.#show(event);
    this.#page.figures(this.#figures, this.#answer);
    if (before.last === 0) this.#enter("live", "Live: the answer is coming.");
    if (this.#answer.ending !== null) this.#end();
  }

  #show(event) {
    if (event.type === "token") {
      countToken(this.#figures, performance.now());
      this.#page.append(event.data);
    }
    if (event.type === "sources") this.#page.sources(this.#answer.sources);
  }

  #beat(message) {
    this.#watchSilence();
    this.#page.frame(message, { isDropped: false });
  }

  /** The EventSource said "error", and no more: it may be trying again by itself, or have given up. */
  #lost(source) {
    if (this.#answer.last === 0) {
      this.#close();
      this.#explain();
      return;
    }
    if (source.readyState === EventSource.CONNECTING) {
      if (this.#phase === "live") this.#page.seam(`line lost after event ${this.#answer.last}`);
      this.#enter("resuming", `Line lost after event ${this.#answer.last}. The browser resumes by itself …`);
      return;
    }
    this.#close();
    this.#repair();
  }

  /** A native EventSource hides the status of a refusal, so one other request has to tell the reason. */
  async #explain() {
    const figures = this.#figures;
    const features = await request("/v1/features");
    if (figures !== this.#figures) return;
    if (features.status === 0 || features.status >= 500) this.#enter("broken", UNREACHABLE);
    else this.#enter("broken", features.body?.sse === false ? SWITCHED_OFF : REFUSED);
  }

  /** After a gap, or a resume that was refused: take the whole text, then attach after it. */
  async #repair() {
    const figures = this.#figures;
    this.#enter("resuming", "Fetching what is missing …");
    const status = await request(statusPath(this.#answer));
    if (figures !== this.#figures) return;
    if (!status.ok) {
      this.#tryLater(status.status);
      return;
    }
    this.#answer = repaired(this.#answer, status.body);
    this.#page.replace(this.#answer.text);
    this.#page.figures(this.#figures, this.#answer);
    if (this.#answer.ending === null) this.#resume();
    else this.#end();
  }

  #tryLater(status) {
    const isFinal = status >= 400 && status < 500 && ![408, 425, 429].includes(status);
    if (isFinal || this.#attempt >= MAX_ATTEMPTS) {
      this.#page.finish(this.#answer.text, "");
      this.#enter("broken", isFinal ? GONE : UNREACHABLE);
      return;
    }
    this.#enter("resuming", "The gateway can’t be reached just now. Trying again …");
    this.#timer = setTimeout(() => this.#repair(), backOffMs(this.#attempt, Math.random()));
    this.#attempt += 1;
  }

  #end() {
    this.#close(); // Otherwise a native EventSource would come back after the clean end.
    const { reason, error } = this.#answer.ending;
    const words = error === null ? (ENDINGS[reason] ?? "Ended.") : error.message;
    this.#page.finish(this.#answer.text, words);
    const code = error === null ? `finish_reason: ${reason}` : error.code;
    this.#enter(error === null ? "ended" : "broken", `${words}${this.#connections} (${code})`);
  }

  get #connections() {
    const { reconnects } = this.#figures;
    return reconnects === 0 ? "" : ` Asked once, read over ${reconnects + 1} connections.`;
  }

  #watchSilence() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#close();
      if (this.#answer.last === 0) this.#explain();
      else this.#resume();
    }, SILENCE_MS);
  }
}

/** The document's elements, and how they are filled. */
class Page {
  #at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
  #line = null;

  constructor() {
    this.command(urlOf(ASK_PATH, { query: this.query }));
    this.#at["frames-part"].open = !matchMedia("(max-width: 40rem)").matches;
  }

  get query() {
    return this.#at.query.value.trim();
  }

  set query(text) {
    this.#at.query.value = text;
  }

  /** Call back on what a person does. */
  listen({ ask, cut, stop }) {
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
    this.#at.stop.addEventListener("click", stop);
    this.#at.copy.addEventListener("click", () => this.#copyCommand());
  }

  /** Make room for a new answer. */
  begin() {
    const isAnswerInSight = this.#at.line.getBoundingClientRect().bottom < innerHeight * 0.75;
    if (!isAnswerInSight) this.#at.line.scrollIntoView();
    for (const id of ["answer", "sources", "frames", "spoken"]) this.#at[id].replaceChildren();
    this.#at["sources-part"].hidden = true;
    this.#at.answer.setAttribute("aria-busy", "true");
    this.#line = null;
    this.figures(newFigures(0), NOTHING_READ);
  }

  enter(phase, status, { canCut, canStop }) {
    this.#at.line.dataset.phase = phase;
    this.#at.cut.setAttribute("aria-disabled", String(!canCut));
    this.#at.stop.setAttribute("aria-disabled", String(!canStop));
    if (phase === "ended" || phase === "broken") this.#at.answer.setAttribute("aria-busy", "false");
    this.status(status);
  }

  status(text) {
    this.#at.status.textContent = text;
  }

  /** Add text at the end. Each line is an element of its own, so that items of a list can hang; their text is the text. */
  append(text) {
    for (const piece of text.split(/(?<=\n)/)) {
      if (this.#line === null) this.#line = this.#at.answer.appendChild(element("span", "line-of-text"));
      this.#line.append(piece);
      this.#line.classList.toggle("item", this.#line.textContent.startsWith("- "));
      if (piece.endsWith("\n")) this.#line = null;
    }
  }

  /** Put another text in the answer's place. */
  replace(text) {
    this.#at.answer.replaceChildren();
    this.#line = null;
    this.append(text);
  }

  /** Show where the line broke, in the answer and among the frames. */
  seam(words) {
    const seam = element("span", "seam");
    seam.title = words;
    (this.#line ?? this.#at.answer.lastElementChild)?.append(seam);
    this.mark(words);
  }

  sources(sources) {
    this.#at.sources.replaceChildren(...sources.map(sourceItem));
    this.#at["sources-part"].hidden = sources.length === 0;
  }

  /** Say the whole answer once to those who listen instead of look. */
  finish(text, words) {
    this.#at.spoken.textContent = `${text}\n${words}`;
  }

  figures(figures, answer) {
    const show = (id, value) => {
      this.#at[id].textContent = value;
    };
    show("first-token", figures.firstMs === null ? "–" : inMs(figures.firstMs));
    show("tokens", String(figures.tokens));
    show("inter-token", figures.tokens < 2 ? "–" : inMs((figures.newestMs - figures.firstMs) / (figures.tokens - 1)));
    show("cursor", answer.last === 0 ? "–" : `event ${answer.last}`);
    show("reconnects", String(figures.reconnects));
    show("duplicates", String(answer.duplicates));
  }

  /** Show the request that is under way as one line for a shell. */
  command(url) {
    this.#at.curl.textContent = `curl -N '${url.href}'`;
  }

  /** Show an event as the EventSource handed it over. */
  frame(message, { isDropped }) {
    const block = element("span", isDropped ? "frame dropped" : "frame");
    const fields = message.type === "message" ? [["id", message.lastEventId]] : [];
    for (const [key, value] of [...fields, ["event", message.type], ["data", message.data]]) {
      block.append(element("span", "key", `${key}: `), `${value}\n`);
    }
    this.#addFrame(block);
  }

  /** Note among the frames what happened to the line. */
  mark(words) {
    this.#addFrame(element("span", "frame mark", `${words}\n`));
  }

  #addFrame(block) {
    const { frames } = this.#at;
    const isAtEnd = frames.scrollHeight - frames.scrollTop - frames.clientHeight < 40;
    frames.append(block);
    if (frames.childElementCount > MAX_FRAMES) frames.firstElementChild.remove();
    if (isAtEnd) frames.scrollTop = frames.scrollHeight;
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

function newFigures(askedAt) {
  return { askedAt, firstMs: null, newestMs: null, tokens: 0, reconnects: 0 };
}

/** Times in ms since the question was asked. */
function countToken(figures, now) {
  figures.newestMs = now - figures.askedAt;
  figures.firstMs ??= figures.newestMs;
  figures.tokens += 1;
}

function inMs(ms) {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

function urlOf(path, parameters) {
  const url = new URL(path, location.origin);
  url.search = new URLSearchParams(parameters);
  return url;
}

function statusPath(answer) {
  return `/v1/streams/${answer.streamId}`;
}

/** Fetch JSON. `status` is 0 where no answer came at all. */
async function request(path, options = {}) {
  try {
    const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(10_000), ...options });
    return { ok: response.ok, status: response.status, body: await response.json() };
  } catch {
    return { ok: false, status: 0, body: null };
  }
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function sourceItem(source) {
  const { name, place } = nameAndPlace(source.source);
  const facts = element("p", "facts");
  facts.append(similarityBar(source.similarity), `similarity ${source.similarity.toFixed(2)}`);
  if (source.dateLastCrawled) facts.append(element("span", "", `as of ${source.dateLastCrawled}`));
  if (source.tier) facts.append(element("span", "", `tier ${source.tier}`));
  if (place !== "") facts.append(element("span", "place", place));
  const body = element("div", "source");
  body.append(sourceTitle(name, place), element("p", "snippet", source.snippet), facts);
  const item = element("li", "");
  item.append(body);
  return item;
}

/** The figure beside it says the same in words. */
function similarityBar(similarity) {
  const bar = element("span", "bar");
  bar.style.setProperty("--share", similarity);
  bar.ariaHidden = "true";
  return bar;
}

/** A source is called "name (place)", or by its name or its address alone. */
function nameAndPlace(source) {
  const parts = /^(.*\S)\s+\(([^()]+)\)$/s.exec(source);
  if (parts !== null) return { name: parts[1], place: parts[2] };
  return { name: source, place: isWebAddress(source) ? source : "" };
}

/** Only http and https become a link. */
function sourceTitle(name, place) {
  if (!isWebAddress(place)) return element("p", "source-title", name);
  const link = element("a", "", name);
  link.href = place;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  const title = element("p", "source-title");
  title.append(link);
  return title;
}

function isWebAddress(text) {
  return URL.canParse(text) && ["http:", "https:"].includes(new URL(text).protocol);
}

const page = new Page();
const reader = new AnswerReader(page);
page.listen({ ask: (query) => reader.ask(query), cut: () => reader.cut(), stop: () => reader.stop() });
