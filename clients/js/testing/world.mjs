// A world for tests: time that stands still until it is moved, and a gateway that answers as a test tells it to.

const STARTED_MS = 1_795_359_600_000;
export const STREAM_ID = "st_sample0000000000000000000000";

/** The surroundings of a stream (`Surroundings` in src/surroundings.ts), and what happened in them. */
export class World {
  ms = STARTED_MS;
  chance = 0.5;
  isOnline = true;
  requests = [];
  uncaught = [];
  #answers = [];
  #timers = new Set();
  #wakes = new Set();
  #keys = 0;

  /** Answer the next requests by these: lines, responses, errors to reject with, or functions of the request. */
  answer(...answers) {
    this.#answers.push(...answers);
    return this;
  }

  get surroundings() {
    return {
      fetch: (url, init) => this.#fetch(url, init),
      now: () => this.ms - STARTED_MS,
      epochMs: () => this.ms,
      chance: () => this.chance,
      after: (ms, callback) => this.#after(ms, callback),
      makeKey: () => `key-${String((this.#keys += 1)).padStart(22, "0")}`,
      isOnline: () => this.isOnline,
      uncaught: (error) => this.uncaught.push(error),
      onWake: (callback) => {
        this.#wakes.add(callback);
        return () => this.#wakes.delete(callback);
      },
    };
  }

  /** Whoever waits for something: timers and wake-ups. None are left when a stream has ended. */
  get waiting() {
    return this.#timers.size + this.#wakes.size;
  }

  /** The requests as `METHOD path`. */
  get asked() {
    return this.requests.map(({ method, url }) => `${method} ${url}`);
  }

  /** Let time pass; timers fire in order, and what they cause happens before the next. */
  async pass(ms) {
    const until = this.ms + ms;
    await settled();
    for (let next = this.#nextTimer(until); next !== undefined; next = this.#nextTimer(until)) {
      this.#timers.delete(next);
      this.ms = next.at;
      next.callback();
      await settled();
    }
    this.ms = until;
    await settled();
  }

  /** The page wakes: "visible", "shown" or "online". */
  async wake(how) {
    for (const callback of this.#wakes) callback(how);
    await settled();
  }

  #nextTimer(until) {
    return [...this.#timers].filter(({ at }) => at <= until).sort((one, other) => one.at - other.at)[0];
  }

  #after(ms, callback) {
    const timer = { at: this.ms + ms, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  async #fetch(url, { method = "GET", headers = {}, body, signal }) {
    const request = { method, url, headers, body: body === undefined ? undefined : JSON.parse(body) };
    this.requests.push(request);
    const next = this.#answers.shift();
    if (next === undefined) throw new Error(`nobody answers ${method} ${url}`);
    const answer = typeof next === "function" ? next(request) : next;
    if (answer instanceof Error) throw answer;
    return answer instanceof Line ? answer.open(signal) : answer;
  }
}

/** Return once everything that can happen without time passing has happened. */
export async function settled() {
  for (let round = 0; round < 8; round += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** One event stream response, written by a test. */
export class Line {
  isOpen = false;
  isAborted = false;
  #headers;
  #hasHeaders;
  #controller = null;
  #body;
  #release = () => undefined;

  /** `isSilent`: not even its headers come. */
  constructor({ headers = { "Subak-Stream-Id": STREAM_ID }, isSilent = false } = {}) {
    this.#headers = { "Content-Type": "text/event-stream", ...headers };
    this.#hasHeaders = !isSilent;
    this.#body = new ReadableStream({
      start: (controller) => {
        this.#controller = controller;
      },
    });
  }

  async open(signal) {
    this.isOpen = true;
    signal?.addEventListener("abort", () => this.#abort(signal.reason));
    if (!this.#hasHeaders)
      await new Promise((resolve, reject) => {
        this.#release = resolve;
        signal?.addEventListener("abort", () => reject(signal.reason));
      });
    return new Response(this.#body, { headers: this.#headers });
  }

  /** Let the headers of a silent line come. */
  release() {
    this.#release();
  }

  async send(...blocks) {
    for (const block of blocks) this.#controller.enqueue(new TextEncoder().encode(block));
    await settled();
    return this;
  }

  async end() {
    this.#controller.close();
    await settled();
  }

  async cut() {
    this.#abort(new TypeError("network error"));
    await settled();
  }

  #abort(reason) {
    if (this.isAborted) return;
    this.isAborted = true;
    try {
      this.#controller.error(reason);
    } catch {
      // It has ended by itself.
    }
  }
}

/** One event of the stream. */
export function event(seq, type, data, streamId = STREAM_ID) {
  const envelope = { type, data, sequence: seq, timestamp: STARTED_MS };
  return `id: ${streamId}.${seq}\nevent: message\ndata: ${JSON.stringify(envelope)}\n\n`;
}

export const metadata = () =>
  `: ok\nretry: 10\n${event(1, "metadata", { status: "connected", connectionId: "c_1", streamId: STREAM_ID })}`;
export const token = (seq, text) => event(seq, "token", text);
export const done = (seq, reason = "stop") => event(seq, "done", { finish_reason: reason });
export const heartbeat = (seq) =>
  `event: heartbeat\ndata: ${JSON.stringify({ type: "heartbeat", data: {}, sequence: seq, timestamp: STARTED_MS })}\n\n`;

/** A JSON response. */
export function json(status, body, headers = {}) {
  return new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json", ...headers } });
}

/** The answer to a look at the stream. */
export const status = (text, lastSeq, more = {}) =>
  json(200, { id: STREAM_ID, status: "streaming", last_seq: lastSeq, text, ...more });

export const FLAG_OFF = () => json(403, { ok: false, code: "feature_flag_disabled", flag: "ENABLE_SSE_STREAMING" });
