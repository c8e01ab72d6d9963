/** The first streaming client's interface over `SubakStream`: its pages change one file, and keep their answers. */

import { SubakError } from "./errors.js";
import { ChatFallback } from "./fallback.js";
import type { Metrics } from "./metrics.js";
import { type StateChange, type StreamEvent, type StreamOptions, SubakStream } from "./stream.js";
import type { Done, ErrorData, Metadata, Question, Source } from "./wire.js";

/** What the client measures. Times in ms; `lastTokenTime` since the epoch. */
export interface BaliZeroMetrics {
  firstTokenLatency: number | null;
  tokensReceived: number;
  bytesReceived: number;
  reconnectCount: number;
  isConnected: boolean;
  isStreaming: boolean;
  reconnectAttempts: number;
  lastTokenTime: number | null;
  duration: number;
  transport: Metrics["transport"];
}

export interface BaliZeroAbout {
  sequence: number;
  timestamp: number;
}

export interface BaliZeroResult {
  metrics: BaliZeroMetrics;
  finalData: Done;
}

/** Everything of `StreamOptions` goes too: `headers`, `refresh`, `credentials`, `report`, … */
export interface BaliZeroOptions extends Omit<StreamOptions, "question" | "streamId" | "url" | "fallback"> {
  /** The gateway's origin, or its chat-stream route. This page's own gateway unless said. */
  baseUrl?: string | undefined;
  /** Ask `POST /chat` where the gateway doesn't stream for this caller. On. */
  fallback?: boolean | undefined;
  onToken?: ((text: string, about: BaliZeroAbout & { metrics: BaliZeroMetrics }) => void) | null;
  onMetadata?: ((data: Metadata, about: BaliZeroAbout) => void) | null;
  onSources?: ((sources: Source[], about: BaliZeroAbout) => void) | null;
  /** The text so far was told anew, instead of all tokens before; seldom. */
  onReplace?: ((text: string, about: BaliZeroAbout) => void) | null;
  onComplete?: ((result: BaliZeroResult) => void) | null;
  onError?: ((error: Error, data?: ErrorData) => void) | null;
  onConnect?: ((connection: { connectionId: string | null }) => void) | null;
}

const CHAT_STREAM = "/api/v2/bali-zero/chat-stream";

/** Asks one question at a time. */
export class BaliZeroStreamClient {
  readonly #options: BaliZeroOptions;
  readonly #fallback: ChatFallback | undefined;
  #stream: SubakStream | null = null;
  #giveUp: ((error: SubakError) => void) | null = null;
  #connectionId: string | null = null;
  #change: StateChange = { state: "idle", attempt: 0 };
  #lastTokenTime: number | null = null;

  constructor(options: BaliZeroOptions = {}) {
    this.#options = options;
    this.#fallback = options.fallback === false ? undefined : new ChatFallback();
  }

  /** The stream under way, or the last one: its text, sources, id and cursor. Null before the first. */
  get current(): SubakStream | null {
    return this.#stream;
  }

  /** Ask. An answer under way is stopped first. Rejects without a whole answer; one that was stopped, with `stopped`. */
  async stream(question: Question): Promise<BaliZeroResult> {
    if (!question?.query) throw new TypeError("query is required");
    this.stop();
    const { query, user_email, user_role, conversation_history } = question;
    const url = endpointOf(this.#options.baseUrl);
    const stream = new SubakStream({
      ...this.#options,
      url,
      fallback: this.#fallback,
      question: { query, user_email, user_role, conversation_history },
    });
    this.#stream = stream;
    this.#connectionId = this.#lastTokenTime = null;
    this.#change = { state: "connecting", attempt: 0 };
    this.#listen(stream);
    const stopped = new Promise<never>((_, reject) => {
      this.#giveUp = reject;
    });
    try {
      const { done } = await Promise.race([stream.start(), stopped]);
      const result = { metrics: this.getMetrics(), finalData: done };
      this.#options.onComplete?.(result);
      return result;
    } catch (error) {
      if (error instanceof SubakError && error.code !== "stopped")
        this.#options.onError?.(error, { ...(error.data as ErrorData), code: error.code, message: error.message });
      throw error;
    }
  }

  /** End the answer under way, here at once and at the gateway. What had come is kept. */
  stop(): void {
    if (!this.#isStreaming) return;
    this.#change = { state: "ended", attempt: 0 };
    this.#giveUp?.(new SubakError("stopped", "The stream was stopped."));
    this.#stream?.stop().catch(() => undefined); // It goes on until the gateway has heard.
  }

  /** The figures so far. */
  getMetrics(): BaliZeroMetrics {
    const metrics = this.#stream?.metrics;
    return {
      firstTokenLatency: metrics?.firstTokenMs ?? null,
      tokensReceived: metrics?.tokens ?? 0,
      bytesReceived: metrics?.bytes ?? 0,
      reconnectCount: metrics?.reconnects ?? 0,
      isConnected: this.#change.state === "streaming",
      isStreaming: this.#isStreaming,
      reconnectAttempts: this.#change.attempt,
      lastTokenTime: this.#lastTokenTime,
      duration: metrics?.durationMs ?? 0,
      transport: metrics?.transport ?? "stream",
    };
  }

  get #isStreaming(): boolean {
    return this.#change.state !== "idle" && this.#change.state !== "ended";
  }

  #listen(stream: SubakStream): void {
    const { onToken, onMetadata, onSources, onReplace, onConnect } = this.#options;
    const connected = (): void => onConnect?.({ connectionId: this.#connectionId });
    this.#hear(stream, "state", ({ data }) => {
      this.#change = data;
      if (data.state === "streaming" && this.#connectionId !== null) connected();
    });
    this.#hear(stream, "metadata", ({ data, sequence, timestamp }) => {
      this.#connectionId = data.connectionId;
      connected();
      onMetadata?.(data, { sequence, timestamp });
    });
    const read = (): BaliZeroMetrics => this.getMetrics();
    this.#hear(stream, "token", ({ data, sequence, timestamp }) => {
      this.#lastTokenTime = Date.now();
      const about = { sequence, timestamp, get metrics() { return read(); } }; // Quantiles cost a sort.
      onToken?.(data, about);
    });
    this.#hear(stream, "sources", ({ data, ...about }) => onSources?.(data, aboutOf(about)));
    this.#hear(stream, "replace", ({ data, ...about }) => onReplace?.(data, aboutOf(about)));
  }

  /** Listen while this is the stream under way, and wasn't stopped. */
  #hear<T extends StreamEvent["type"]>(
    stream: SubakStream,
    type: T,
    listener: (event: Extract<StreamEvent, { type: T }>) => void,
  ): void {
    stream.on(type, (event) => {
      if (stream === this.#stream && this.#isStreaming) listener(event);
    });
  }
}

function aboutOf({ sequence, timestamp }: BaliZeroAbout): BaliZeroAbout {
  return { sequence, timestamp };
}

/** Give the route for a base URL that is a route already, or an origin. */
function endpointOf(baseUrl: string | undefined): string {
  if (baseUrl === undefined || baseUrl === "") return CHAT_STREAM;
  return /\/(chat-stream|v1\/streams)$/.test(baseUrl) ? baseUrl : baseUrl.replace(/\/$/, "") + CHAT_STREAM;
}
