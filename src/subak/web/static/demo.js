/**
 * The demo page: one answer at a time, by the browser client that every page may use.
 *
 * `Reading` asks or follows, and says how it goes; `Page` shows what it is told (demo-page.js); `Line` is the network
 * between, which a person may cut (demo-line.js). Resuming is the client's own business.
 */

import { ChatFallback, SubakStream } from "/static/subak-client.js";
import { curlOf } from "./demo-curl.js";
import { Line } from "./demo-line.js";
import { Page } from "./demo-page.js";
import * as words from "./demo-words.js";

const ASK_PATH = "/api/v2/bali-zero/chat-stream";
const TAB_MEMORY = "demo";
const SHARED = /^#(st_[\w-]+)$/;

/** One answer, from its question or another tab's stream to its end. Tells the page of everything until it is left. */
class Reading {
  #page;
  #stream;
  #line;
  #phase = "connecting";
  #lines = 0;
  #isCut = false;
  #isStopping = false;
  #isLeft = false;

  constructor(page, stream, line) {
    this.#page = page;
    this.#stream = stream;
    this.#line = line;
    const told = (listener) => (...about) => this.#isLeft || listener(...about);
    line.listen({
      sent: told((request, isStream) => this.#sent(request, isStream)),
      received: told((text) => page.frames.take(text)),
      broken: told(() => page.frames.tear()),
    });
    stream.on("state", told(({ data }) => this.#moved(data)));
    stream.on("frame", told(({ data, isDropped }) => isDropped && page.frames.drop(data.id)));
    stream.on("sources", told(() => page.sources(stream.sources)));
    stream.on("done", told(({ data }) => this.#end("ended", words.ofEnding(data, stream.metrics), data.metrics)));
    stream.on("error", told(({ data }) => this.#fail(data)));
    page.begin();
    stream.start().catch(() => undefined); // "error" has told.
    this.#picture();
  }

  get isOpen() {
    return this.#stream.state !== "ended";
  }

  cut() {
    if (this.#phase !== "live") return;
    this.#isCut = true;
    this.#line.cut();
  }

  switchOffOrOn() {
    if (!this.isOpen || this.#stream.streamId === "" || this.#isStopping) return;
    if (this.#line.isOff) {
      this.#line.switchOn();
      return;
    }
    this.#line.switchOff();
    if (this.#phase !== "live") this.#enter("off", words.offAfter(this.#seq));
  }

  /** End the answer for good: the gateway then sends its terminal event. One that can't be reached is only left. */
  stop() {
    if (!this.isOpen || this.#line.isOff || this.#isStopping) return;
    if (this.#phase === "cut" && this.#stream.streamId === "") {
      this.#stream.close();
      this.#end("broken", words.LEFT);
      return;
    }
    this.#isStopping = true;
    this.#enter("stopping", words.STOPPING);
    this.#stream.stop().catch(() => undefined);
  }

  /** Say no more: another question is asked. The answer ends, unless another tab has asked for it. */
  leave({ isShared }) {
    const { isOpen } = this;
    const { streamId } = this.#stream;
    this.#isLeft = true;
    this.#stream.close();
    if (!isOpen || isShared || streamId === "") return;
    const headers = this.#page.credentials();
    fetch(`/v1/streams/${streamId}/stop`, { method: "POST", headers }).catch(() => undefined);
  }

  get #seq() {
    const { cursor } = this.#stream;
    return Number(cursor.slice(cursor.lastIndexOf(".") + 1));
  }

  #moved({ state, status, delayMs }) {
    const seq = this.#seq;
    if (this.#isStopping || state === "ended" || this.#stream.metrics.transport === "chat") return;
    if (state === "streaming") {
      this.#isCut = false;
      this.#enter("live", this.#lines > 0 && seq > 0 ? words.resumedAfter(seq) : words.LIVE);
      this.#lines += 1;
      return;
    }
    if (this.#phase === "live") this.#page.seam(this.#lost(seq), this.#stream.text);
    if (state === "polling") this.#enter("live", words.POLLING);
    else if (this.#line.isOff) this.#enter("off", words.offAfter(seq));
    else if (state === "waiting") this.#wait(seq, status, delayMs);
    else if (seq > 0) this.#enter("resuming", words.resumingAfter(seq));
    else this.#enter("connecting", this.#stream.streamId === "" ? words.ASKING : words.FOLLOWING);
  }

  #wait(seq, status, delayMs) {
    if (status === 429) this.#enter("held", words.TOO_MANY, delayMs);
    else if (status !== undefined) this.#enter("held", words.busy(status), delayMs);
    else if (seq === 0) this.#enter("cut", words.UNREACHABLE, delayMs);
    else this.#enter("cut", this.#lost(seq), delayMs);
  }

  #lost(seq) {
    return this.#isCut || this.#line.isOff ? words.cutAfter(seq) : words.lostAfter(seq);
  }

  #enter(phase, status, delayMs = 0) {
    this.#phase = phase;
    this.#page.enter(phase, status, delayMs);
    this.#page.allow({
      canCut: phase === "live",
      canSwitch: this.isOpen && this.#stream.streamId !== "" && phase !== "stopping",
      canStop: this.isOpen && phase !== "off" && phase !== "stopping",
      isOff: this.#line.isOff,
    });
  }

  #sent(request, isStream) {
    const { method = "GET", url, headers } = request;
    const cursor = headers["Last-Event-ID"];
    const asks = isStream || url.pathname.endsWith("/chat");
    this.#page.frames.mark(`→ ${method} ${url.pathname}${url.search}${cursor ? `\n  Last-Event-ID: ${cursor}` : ""}`);
    if (asks) this.#page.command(curlOf(request));
    if (asks && !isStream) this.#enter("connecting", words.BY_CHAT);
  }

  #fail(error) {
    if (error.status === 401) this.#page.wantKey();
    this.#end("broken", words.ofError(error));
  }

  #end(phase, status, gatewayMetrics = null) {
    this.#page.show(this.#stream, true);
    this.#page.finish(gatewayMetrics);
    this.#enter(phase, status);
  }

  /** Once for each picture of the screen, however many tokens have come. */
  #picture() {
    if (this.#isLeft || !this.isOpen) return;
    this.#page.show(this.#stream, !["cut", "off", "resuming"].includes(this.#phase));
    requestAnimationFrame(() => this.#picture());
  }
}

/** Give the functions by which a person, or the page's address, starts a reading on this page. */
function readerOn(page) {
  const fallback = new ChatFallback();
  let reading = null;
  let query = null;

  const read = (open) => {
    const line = new Line();
    const headers = () => page.credentials();
    const stream = open({ surroundings: line.surroundings, rememberAs: TAB_MEMORY, headers, fallback, report: true });
    if (stream !== null) reading = new Reading(page, stream, line);
  };
  return {
    ask(asked) {
      if (reading?.isOpen && asked === query) return;
      reading?.leave({ isShared: SHARED.test(location.hash) });
      query = asked;
      history.replaceState(null, "", location.pathname);
      read((options) => new SubakStream({ question: { query }, ...options }));
    },
    cut: () => reading?.cut(),
    switchOffOrOn: () => reading?.switchOffOrOn(),
    stop: () => reading?.stop(),
    /** Read on what this tab was reading before it was reloaded, or what another tab gave the address of. */
    resume() {
      const streamId = SHARED.exec(location.hash)?.[1];
      if (streamId === undefined) read((options) => SubakStream.resume(TAB_MEMORY, options));
      else read((options) => new SubakStream({ streamId, ...options }));
    },
  };
}

/** What asking will send; the key is made when it is sent. */
function commandFor(query) {
  const headers = { "Content-Type": "application/json" };
  return curlOf({ url: new URL(ASK_PATH, location.origin), method: "POST", headers, body: JSON.stringify({ query }) });
}

const page = new Page();
const reader = readerOn(page);
page.command(commandFor(page.query));
page.listen(reader);
reader.resume();
