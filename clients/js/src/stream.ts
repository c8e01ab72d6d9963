/**
 * One question and its answer, read to the end through whatever happens to the line (docs/PROTOCOL.md, section 6).
 *
 *     state       what happens                                       until
 *     ----------  -------------------------------------------------  ---------------------------------------------
 *     idle        nothing                                            `start`, or a `for await` loop
 *     connecting  a request is under way                             first byte: streaming; none in time: again
 *     streaming   events come                                        the line is lost, silent, or has a gap
 *     polling     the status is asked for, beside a line that is     bytes come after all: streaming
 *                 held back by something between
 *     waiting     a pause before the next request                    its end, or the page wakes
 *     ended       `done`, `error`, a refusal for good, or `close`    for ever
 *
 * Only a terminal event ends an answer. The question is asked once: with one key, however often it must be sent.
 */

import { Answer, endingOf, type Ending } from "./answer.js";
import { type BackOff, fullJitterMs, isPassing, retryAfterMs } from "./backoff.js";
import { SubakError } from "./errors.js";
import type { ChatFallback } from "./fallback.js";
import { Gateway, type GatewayOptions } from "./gateway.js";
import { Meter, type Metrics } from "./metrics.js";
import { EventStreamParser, type ServerEvent } from "./parser.js";
import { EventQueue } from "./queue.js";
import { SURROUNDINGS, sleep, type Surroundings, type Wake } from "./surroundings.js";
import { TabMemory } from "./tab.js";
import {
  type Done,
  type Envelope,
  envelopeOf,
  jsonOf,
  type Metadata,
  type Question,
  type Source,
  type Status,
} from "./wire.js";

export type State = "idle" | "connecting" | "streaming" | "polling" | "waiting" | "ended";

/** Why there is a pause: `refused` with the gateway's status and code. */
export interface StateChange {
  state: State;
  reason?: string | undefined;
  status?: number | undefined;
  delayMs?: number | undefined;
  /** How many attempts in a row brought nothing. */
  attempt: number;
}

interface About {
  sequence: number;
  /** The gateway's time, ms since the epoch. */
  timestamp: number;
}

/** What an answer consists of, in order. `replace`: the whole text so far, instead of what was told before. */
export type ContentEvent =
  | ({ type: "metadata"; data: Metadata } & About)
  | ({ type: "token"; data: string } & About)
  | ({ type: "sources"; data: Source[] } & About)
  | ({ type: "replace"; data: string } & About)
  | ({ type: "done"; data: Done } & About);

/** What listeners are told: the content, and how it goes. */
export type StreamEvent =
  | ContentEvent
  | { type: "state"; data: StateChange }
  | { type: "frame"; data: ServerEvent; isDropped: boolean }
  | { type: "error"; data: SubakError };

type EventOf<T extends StreamEvent["type"]> = Extract<StreamEvent, { type: T }>;

/** A whole answer. */
export interface Outcome {
  streamId: string;
  text: string;
  sources: Source[];
  done: Done;
  metrics: Metrics;
}

/** What to ask or follow, and how. Times in ms. */
export interface StreamOptions extends GatewayOptions {
  /** What to ask; or … */
  question?: Question | undefined;
  /** … which stream to follow from its beginning: one that another tab has asked for, say. */
  streamId?: string | undefined;
  /** Made once for the question unless given. */
  idempotencyKey?: string | undefined;
  /** Leaves the answer when aborted. */
  signal?: AbortSignal | undefined;
  /** Attempts in a row that bring nothing before it gives up; being offline doesn't count. 10. */
  maxReconnectAttempts?: number | undefined;
  /** The first pause is at most so long, and doubles. 1 000. */
  reconnectDelay?: number | undefined;
  /** 30 000. */
  maxReconnectDelay?: number | undefined;
  /** A `Retry-After` above this is taken for a refusal. 300 000. */
  maxRetryAfter?: number | undefined;
  /** The gateway's heartbeat: a line that is silent for 2.5 of them is dead. 30 000. */
  heartbeat?: number | undefined;
  /** The gateway sends its first bytes at once: a line without any for so long is held back. 10 000. */
  firstByte?: number | undefined;
  /** 2 000. */
  pollInterval?: number | undefined;
  /** Asks `POST /chat` where the gateway doesn't stream for this caller. Without one such a refusal is an error. */
  fallback?: ChatFallback | undefined;
  /** Keep the question and its cursor in the tab under this name, for `SubakStream.resume` after a reload. */
  rememberAs?: string | undefined;
  /** Send the metrics to the gateway at the end, also of an answer that was left. */
  report?: boolean | undefined;
  /** Network, time, chance and page of your own, in part or whole: to look on as a line is read, or to test. */
  surroundings?: Partial<Surroundings> | undefined;
}

/** What an attempt leaves to do: come back `ms` later or, if it isn't firm, sooner. */
interface Pause {
  reason: string;
  status?: number;
  /** At least so long; the back-off may be longer. Null: at once. */
  ms: number | null;
  isFirm?: boolean;
}

const QUEUED_EVENTS = 1_000;
const HEARTBEATS_UNTIL_DEAD = 2.5;
const SILENT_CONNECTS = 2;
/** How often a stream is asked for the ending that its status has told already. */
const ATTEMPTS_FOR_ENDING = 3;

/** One question and its answer. Use it by `for await`, by `on` and `start`, or both. */
export class SubakStream implements AsyncIterable<ContentEvent> {
  /** Give the stream that this tab was reading under a name before it was reloaded; null if there was none. */
  static resume(rememberAs: string, options: Omit<StreamOptions, "question" | "streamId"> = {}): SubakStream | null {
    const kept = new TabMemory(rememberAs).load();
    if (kept === null) return null;
    const streamId = kept.cursor?.replace(/\.\d+$/, "");
    const { key: idempotencyKey, question } = kept;
    return new SubakStream({ ...options, rememberAs, idempotencyKey, question, streamId });
  }

  readonly #options: StreamOptions;
  readonly #around: Surroundings;
  readonly #gateway: Gateway;
  readonly #key: string;
  readonly #backOff: BackOff;
  readonly #tab: TabMemory | null;
  readonly #answer = new Answer();
  readonly #parser = new EventStreamParser();
  readonly #listeners = new Map<string, Set<(event: never) => void>>();
  readonly #queues = new Set<EventQueue<ContentEvent>>();
  readonly #life = new AbortController();
  readonly #finished: Promise<Outcome>;
  #resolve!: (outcome: Outcome) => void;
  #reject!: (error: unknown) => void;
  #meter: Meter;
  #state: State = "idle";
  #line = new AbortController();
  #nap: AbortController | null = null;
  /** Whether the gateway has said how long the pause has to be. */
  #isFirm = false;
  /** What to do after a line that was given up on purpose. */
  #interruption: Pause | null = null;
  #fruitless = 0;
  #lines = 0;
  #hasHeard = false;
  #isHeld = false;
  #heardAt = 0;
  #silentConnects = 0;
  /** Whether a question that was sent may have made a stream that we don't know of. */
  #mayExist = false;
  #isStopping = false;
  /** An ending that a status told, until the stream itself tells it. */
  #lastWord: Ending | null = null;
  #cause: unknown;

  constructor(options: StreamOptions) {
    if (options.question === undefined && options.streamId === undefined)
      throw new TypeError("SubakStream needs a question or a streamId.");
    this.#options = options;
    this.#around = { ...SURROUNDINGS, ...options.surroundings };
    this.#gateway = new Gateway(options, this.#around);
    this.#key = options.idempotencyKey ?? (options.question === undefined ? "" : this.#around.makeKey());
    this.#backOff = { baseMs: options.reconnectDelay ?? 1_000, maxMs: options.maxReconnectDelay ?? 30_000 };
    this.#tab = options.rememberAs === undefined ? null : new TabMemory(options.rememberAs);
    this.#meter = new Meter(this.#around.now());
    this.#finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#finished.catch(() => undefined); // Whoever wants to know awaits `start` or listens for "error".
  }

  get state(): State {
    return this.#state;
  }

  /** The answer so far. */
  get text(): string {
    return this.#answer.text;
  }

  get sources(): readonly Source[] {
    return this.#answer.sources;
  }

  /** Empty until the gateway has told it. Whoever has it may read and stop an anonymous answer. */
  get streamId(): string {
    return this.#answer.streamId;
  }

  /** Where it would resume: `{stream id}.{seq}`. */
  get cursor(): string {
    return this.#answer.cursor;
  }

  get metrics(): Metrics {
    return this.#meter.read(this.#around.now());
  }

  /** Ask, if that wasn't done yet. Resolves with the whole answer; rejects with a `SubakError` without one. */
  start(): Promise<Outcome> {
    if (this.#state === "idle") this.#begin();
    return this.#finished;
  }

  /** Call back on every event of a type; gives a function that ends it. */
  on<T extends StreamEvent["type"]>(type: T, listener: (event: EventOf<T>) => void): () => void {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener as (event: never) => void));
    return () => void listeners.delete(listener as (event: never) => void);
  }

  /** The content, in order. Leaving the loop leaves the answer; one that fails throws its `SubakError` here. */
  async *[Symbol.asyncIterator](): AsyncGenerator<ContentEvent, void, void> {
    const queue = new EventQueue<ContentEvent>(QUEUED_EVENTS);
    this.#queues.add(queue);
    if (this.text !== "") queue.put({ type: "replace", data: this.text, ...this.#now() });
    if (this.#isOver) queue.close();
    void this.start();
    try {
      for (let events = await queue.take(); events.length > 0; events = await queue.take()) yield* events;
      await this.#finished;
    } finally {
      this.#queues.delete(queue);
      queue.close();
      this.close();
    }
  }

  /** End the answer for good. Resolves when it has ended: with what had come, or with the whole if that was faster. */
  stop(): Promise<Outcome> {
    if (this.#isOver || this.#isStopping) return this.#finished;
    this.#isStopping = true;
    if (this.#answer.streamId !== "") void this.#sendStop();
    else if (!this.#mayExist || this.#meter.transport === "chat") this.#end({ done: { finish_reason: "cancelled" } });
    return this.#finished; // Else as soon as its id is known.
  }

  /** Leave. The answer goes on at the gateway for a while: another stream may follow it by `streamId`. */
  close(reason: unknown = new SubakError("closed", "The answer was left.")): void {
    this.#settle(() => this.#reject(reason));
  }

  /** Tell the gateway how it was. True when it took it. */
  async report(): Promise<boolean> {
    if (this.#answer.streamId === "") return false;
    const { transport: _, ...figures } = this.metrics;
    const response = await this.#gateway.report(this.#answer.streamId, figures).catch(() => null);
    return response?.ok ?? false;
  }

  get #isOver(): boolean {
    return this.#state === "ended";
  }

  #begin(): void {
    const { signal, streamId, question } = this.#options;
    this.#meter = new Meter(this.#around.now());
    this.#enter("connecting");
    if (signal?.aborted) {
      this.close(signal.reason);
      return;
    }
    signal?.addEventListener("abort", () => this.close(signal.reason), { signal: this.#life.signal });
    this.#life.signal.addEventListener("abort", this.#around.onWake((wake) => this.#onWake(wake)));
    if (streamId === undefined) this.#tab?.save({ key: this.#key, question });
    else this.#identify(streamId);
    this.#run().catch((error: unknown) => this.#fail(error));
  }

  async #run(): Promise<void> {
    const { fallback, streamId } = this.#options;
    if (streamId === undefined && fallback?.isRemembered(this.#around.epochMs())) await this.#fallBack(fallback);
    while (!this.#isOver) await this.#rest(await this.#attempt());
  }

  // --- one line ---------------------------------------------------------------

  async #attempt(): Promise<Pause> {
    const line = (this.#line = new AbortController());
    this.#hasHeard = false;
    this.#interruption = null;
    this.#heardAt = this.#around.epochMs();
    this.#enter("connecting");
    this.#watch(line.signal);
    if (this.#silentConnects >= SILENT_CONNECTS && this.#lastWord === null) void this.#poll(line.signal);
    try {
      return await this.#receive(await this.#request(line.signal));
    } catch (error) {
      if (error instanceof SubakError) throw error;
      this.#cause = error;
      return this.#interruption ?? { reason: "lost", ms: this.#parser.retry ?? 0 };
    } finally {
      line.abort();
    }
  }

  #request(signal: AbortSignal): Promise<Response> {
    const { cursor, streamId } = this.#answer;
    if (streamId !== "") return this.#gateway.attach(streamId, cursor, signal);
    const mayExist = this.#mayExist;
    this.#mayExist = true; // unless a refusal says that it made none
    return this.#gateway.ask(this.#question, this.#key, signal).then((response) => {
      if (response.status >= 400 && response.status < 500) this.#mayExist = mayExist;
      return response;
    });
  }

  get #question(): Question {
    return this.#options.question as Question;
  }

  async #receive(response: Response): Promise<Pause> {
    const type = response.headers.get("Content-Type") ?? "";
    if (response.status === 204 && this.#lastWord === null) return this.#repair();
    if (response.status !== 200 || !type.startsWith("text/event-stream")) return this.#refused(response);
    const streamId = response.headers.get("Subak-Stream-Id");
    if (streamId !== null) this.#identify(streamId);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    this.#parser.reset();
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      this.#hear(chunk.value.byteLength);
      for (const event of this.#parser.feed(chunk.value)) {
        this.#fruitless = 0;
        if (!this.#take(event)) return this.#repair();
        if (this.#isOver) break;
      }
      await this.#room();
    }
    return this.#interruption ?? { reason: "lost", ms: this.#parser.retry ?? 0 };
  }

  #hear(bytes: number): void {
    this.#heardAt = this.#around.epochMs();
    this.#meter.bytes += bytes;
    if (this.#hasHeard) return;
    this.#hasHeard = true;
    this.#silentConnects = 0;
    this.#lines += 1;
    if (this.#lines > 1) this.#meter.reconnects += 1;
    this.#enter("streaming");
  }

  /** Take one event. False for a gap before it. */
  #take(event: ServerEvent): boolean {
    const envelope = envelopeOf(event.data);
    if (envelope === null) throw new Error("An event's data is no envelope.");
    if (event.type === "heartbeat") {
      this.#emit({ type: "frame", data: event, isDropped: false });
      return envelope.sequence <= this.#answer.last;
    }
    this.#identify(event.id.slice(0, event.id.lastIndexOf(".")));
    const isSnapshot = envelope.type === "snapshot";
    const verdict = isSnapshot ? "apply" : this.#answer.judge(envelope);
    this.#emit({ type: "frame", data: event, isDropped: verdict === "drop" });
    if (verdict === "gap") return false;
    if (verdict === "drop") this.#meter.duplicates += 1;
    else if (isSnapshot) this.#takeSnapshot(envelope);
    else this.#apply(envelope);
    return true;
  }

  #apply(envelope: Envelope): void {
    this.#answer.apply(envelope);
    const { type } = envelope;
    if (type === "token") this.#meter.token(this.#around.now());
    if (type === "token" || type === "sources" || type === "metadata") this.#emit(envelope as ContentEvent);
    if (this.#answer.ending !== null) this.#end(this.#answer.ending, envelope);
  }

  #takeSnapshot({ data, sequence }: Envelope): void {
    const before = this.text;
    this.#answer.replace((data as { text: string }).text, sequence);
    this.#announce(before);
  }

  /** Tell of text that didn't come token by token. */
  #announce(before: string): void {
    if (this.text === before) return;
    const goesOn = this.text.startsWith(before);
    if (goesOn) this.#meter.token(this.#around.now());
    const data = goesOn ? this.text.slice(before.length) : this.text;
    this.#emit({ type: goesOn ? "token" : "replace", data, ...this.#now() });
  }

  #now(): About {
    return { sequence: this.#answer.last, timestamp: this.#around.epochMs() };
  }

  #identify(streamId: string): void {
    const known = this.#answer.streamId;
    if (streamId === known || streamId === "") return;
    if (known !== "") throw new Error("The line tells of another stream.");
    this.#answer.streamId = streamId;
    this.#tab?.save({ key: this.#key, cursor: this.cursor });
    if (this.#isStopping) void this.#sendStop();
  }

  // --- gaps, refusals, silence -------------------------------------------------

  /** Take the text from the status, then come back: at once, if that told anything. */
  async #repair(): Promise<Pause> {
    const { last, streamId } = this.#answer;
    this.#meter.gaps += 1;
    const response = await this.#gateway.status(streamId, this.#line.signal);
    if (!response.ok) return this.#refused(response);
    this.#learn((await response.json()) as Status);
    return { reason: "gap", ms: this.#answer.last > last ? null : 0 };
  }

  #learn(status: Status): void {
    const before = this.text;
    if (this.#answer.learn(status)) this.#announce(before);
    this.#lastWord = endingOf(status);
    if (this.#lastWord !== null) this.#fruitless = 0;
  }

  async #refused(response: Response): Promise<Pause> {
    const { status } = response;
    const body = await jsonOf(response);
    const isAsking = this.#answer.streamId === "";
    const { fallback } = this.#options;
    if (isAsking && !this.#mayExist && fallback?.takes(status, body["code"], this.#around.epochMs()))
      await this.#fallBack(fallback);
    const found = isAsking && status === 410 ? /st_[\w-]+$/.exec(String(body["status_url"])) : null;
    if (found !== null) this.#identify(found[0]); // The key's stream has ended: its text may still be there.
    if (this.#isOver || found !== null) return { reason: "refused", ms: null };
    return this.#judgeRefusal(response, body);
  }

  #judgeRefusal({ status, headers }: Response, body: Record<string, unknown>): Pause {
    const inBody = Number(body["retryAfter"]) * 1000 || undefined;
    const ms = retryAfterMs(headers.get("Retry-After"), this.#around.epochMs()) ?? inBody;
    const code = String(body["code"] ?? body["error"] ?? "refused");
    if (isPassing(status) && (ms ?? 0) <= (this.#options.maxRetryAfter ?? 300_000))
      return { reason: code, status, ms: ms ?? 0, isFirm: ms !== undefined };
    if (this.#lastWord !== null) {
      this.#end(this.#lastWord);
      return { reason: code, ms: null };
    }
    const message = String(body["message"] ?? body["detail"] ?? body["error"] ?? `The gateway answered ${status}.`);
    throw new SubakError(code, message, { status, retryAfterMs: ms, isRetryable: isPassing(status), data: body });
  }

  /** Look after a line until it is over: one that stays silent for too long is dead, or held back. */
  #watch(line: AbortSignal): void {
    const { heartbeat = 30_000, firstByte = 10_000 } = this.#options;
    const dead = heartbeat * HEARTBEATS_UNTIL_DEAD;
    const limit = this.#hasHeard ? dead : firstByte;
    const left = this.#isHeld ? limit : this.#heardAt + limit - this.#around.epochMs();
    if (left > 0) void sleep(this.#around, Math.min(left, dead), line).then(() => line.aborted || this.#watch(line));
    else if (this.#hasHeard) this.#interrupt("silence");
    else this.#onSilentConnect(line);
  }

  #onSilentConnect(line: AbortSignal): void {
    this.#silentConnects += 1;
    if (this.#silentConnects !== SILENT_CONNECTS || this.#lastWord !== null) {
      this.#interrupt("silence", this.#silentConnects < SILENT_CONNECTS ? null : 0);
      return;
    }
    this.#heardAt = this.#around.epochMs();
    void this.#poll(line);
    this.#watch(line); // Polls that succeed are heard too.
  }

  /**
   * Ask for the status, beside a line that something between us holds back: the gateway must have a reader, or it ends
   * the answer as abandoned. Ends with the line, or when it speaks after all.
   */
  async #poll(line: AbortSignal): Promise<void> {
    this.#enter("polling");
    this.#meter.transport = "polling";
    while (!line.aborted && !this.#hasHeard) {
      await this.#pollOnce(line).catch((error: unknown) => {
        if (error instanceof SubakError) this.#fail(error);
      });
      if (this.#lastWord !== null) this.#interrupt("polled");
      await sleep(this.#around, this.#options.pollInterval ?? 2_000, line);
    }
  }

  async #pollOnce(signal: AbortSignal): Promise<void> {
    if (this.#answer.streamId === "") {
      const created = await jsonOf(await this.#gateway.create(this.#question, this.#key, signal));
      if (typeof created["id"] === "string") this.#identify(created["id"]);
      return;
    }
    const response = await this.#gateway.status(this.#answer.streamId, signal);
    this.#heardAt = this.#around.epochMs();
    if (response.ok) this.#learn((await response.json()) as Status);
    else await this.#refused(response);
  }

  /** Give up the line and come back: at once, or after a pause that counts as an attempt without fruit. */
  #interrupt(reason: string, ms: number | null = null): void {
    this.#interruption = { reason, ms };
    this.#line.abort();
  }

  #onWake(wake: Wake): void {
    const { heartbeat = 30_000 } = this.#options;
    if (this.#nap !== null) this.#endNap();
    else if (wake !== "visible" || this.#around.epochMs() - this.#heardAt > heartbeat) this.#interrupt(wake);
  }

  /** Come back now, unless the gateway has said when. */
  #endNap(): void {
    if (!this.#isFirm) this.#nap?.abort();
  }

  async #rest({ reason, status, ms, isFirm = false }: Pause): Promise<void> {
    if (ms === null || this.#isOver) return;
    const isOnline = this.#around.isOnline();
    const { maxReconnectAttempts = 10 } = this.#options;
    const most = this.#lastWord === null ? maxReconnectAttempts : ATTEMPTS_FOR_ENDING;
    if (isOnline && this.#fruitless >= most) return this.#giveUp();
    const jitterMs = fullJitterMs(this.#fruitless, this.#around.chance(), this.#backOff);
    const delayMs = Math.max(ms, isOnline ? jitterMs : this.#backOff.maxMs);
    this.#enter("waiting", { reason, status, delayMs });
    if (isOnline) this.#fruitless += 1;
    const nap = (this.#nap = new AbortController());
    this.#isFirm = isFirm;
    await sleep(this.#around, delayMs, nap.signal);
    this.#nap = null;
  }

  #giveUp(): void {
    if (this.#lastWord !== null) this.#end(this.#lastWord);
    else this.#fail(new SubakError("gave_up", "Nothing came any more.", { isRetryable: true, data: this.#cause }));
  }

  /** Wait for loops that take events more slowly than they come: the socket then holds the gateway back. */
  async #room(): Promise<void> {
    for (const queue of this.#queues) {
      if (!queue.isFull) continue;
      this.#isHeld = true;
      await queue.room();
      this.#isHeld = false;
      this.#heardAt = this.#around.epochMs();
    }
  }

  // --- other ways --------------------------------------------------------------

  async #fallBack(fallback: ChatFallback): Promise<void> {
    this.#meter.transport = "chat";
    const events = await fallback.ask(this.#gateway, this.#question, this.#life.signal, this.#around.epochMs());
    if (this.#isOver) return;
    this.#enter("streaming");
    for (const event of events) this.#apply(event);
  }

  /** Stop by the gateway's route, until it has heard; then fetch the ending. */
  async #sendStop(): Promise<void> {
    for (let attempt = 0; !this.#isOver; attempt += 1) {
      const { signal } = this.#life;
      const response = await this.#gateway.stop(this.#answer.streamId, signal).catch(() => null);
      if (this.#isOver) return;
      if (response !== null && !isPassing(response.status)) {
        const { status } = response;
        this.#fail(new SubakError("refused", "The answer can't be stopped.", { status, data: await jsonOf(response) }));
      } else if (response?.ok) {
        this.#endNap();
        this.#interrupt("stopped");
        return;
      }
      await sleep(this.#around, fullJitterMs(attempt, this.#around.chance(), this.#backOff), signal);
    }
  }

  // --- the end -----------------------------------------------------------------

  #end(ending: Ending, about: About = this.#now()): void {
    if ("error" in ending) {
      const { code, message, retryable, retryAfter } = ending.error;
      const after = retryAfter === undefined ? undefined : retryAfter * 1000;
      const isRetryable = retryable === true;
      this.#fail(new SubakError(code, message, { isRetryable, retryAfterMs: after, data: ending.error }));
      return;
    }
    const { done } = ending;
    this.#settle(() => {
      const { sequence, timestamp } = about;
      this.#emit({ type: "done", data: done, sequence, timestamp });
      const { text, streamId, metrics } = this;
      this.#resolve({ streamId, text, sources: [...this.sources], done, metrics });
    });
  }

  #fail(error: unknown): void {
    const failed =
      error instanceof SubakError
        ? error
        : new SubakError("network", "The gateway can't be reached.", { isRetryable: true, data: error });
    this.#settle(() => {
      this.#emit({ type: "error", data: failed });
      this.#reject(failed);
    });
  }

  #settle(tell: () => void): void {
    if (this.#isOver) return;
    this.#meter.end(this.#around.now());
    this.#enter("ended");
    this.#tab?.clear();
    tell();
    if (this.#options.report) void this.report();
    this.#life.abort();
    this.#line.abort();
    this.#nap?.abort();
    for (const queue of this.#queues) queue.close();
  }

  #enter(state: State, why: Partial<StateChange> = {}): void {
    if (this.#isOver) return;
    this.#state = state;
    this.#emit({ type: "state", data: { state, attempt: this.#fruitless, ...why } });
  }

  #emit(event: StreamEvent): void {
    if (isContent(event)) for (const queue of this.#queues) queue.put(event);
    for (const listener of this.#listeners.get(event.type) ?? []) {
      try {
        listener(event as never);
      } catch (error) {
        this.#around.uncaught(error); // A listener's mistake isn't the stream's.
      }
    }
  }
}

function isContent(event: StreamEvent): event is ContentEvent {
  return !["state", "frame", "error"].includes(event.type);
}
