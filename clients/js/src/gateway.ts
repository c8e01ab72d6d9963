/** The gateway's routes as requests: where they go, and what goes with them. No policy, no state of a stream. */

import type { Figures } from "./metrics.js";
import type { Surroundings } from "./surroundings.js";
import type { Question } from "./wire.js";

/** Header names and values. */
export type Headers = Readonly<Record<string, string>>;

/** Where the gateway is, and how to speak to it. */
export interface GatewayOptions {
  /** The route that takes the question; `/api/v2/bali-zero/chat-stream` unless said. */
  url?: string | undefined;
  /** `/v1/streams` of the same gateway unless said. */
  streamsUrl?: string | undefined;
  /** `/api/v2/bali-zero/chat` of the same gateway unless said. */
  chatUrl?: string | undefined;
  /** GET puts the question into the URL, where proxies log it. POST unless said. */
  method?: "GET" | "POST" | undefined;
  /** Headers of every request, or what gives them anew for each: credentials, `x-session-id` and the like. */
  headers?: Headers | (() => Headers | Promise<Headers>) | undefined;
  /** Called once for a request that was answered 401: true when new credentials are at hand and it should be repeated. */
  refresh?: (() => boolean | Promise<boolean>) | undefined;
  /** As in `fetch`. */
  credentials?: RequestCredentials | undefined;
}

const ASK_PATH = "/api/v2/bali-zero/chat-stream";
const JSON_TYPE = "application/json";
const EVENTS_TYPE = "text/event-stream";

/** Makes requests of a gateway. Each rejects as `fetch` does. */
export class Gateway {
  readonly #options: GatewayOptions;
  readonly #around: Surroundings;
  readonly #url: string;
  readonly #streams: string;
  readonly #chat: string;

  constructor(options: GatewayOptions, around: Surroundings) {
    this.#options = options;
    this.#around = around;
    this.#url = options.url ?? ASK_PATH;
    const root = this.#url.replace(/(\/api\/v2\/bali-zero\/chat-stream|\/v1\/streams)?\/?(\?.*)?$/, "");
    this.#streams = options.streamsUrl ?? `${root}/v1/streams`;
    this.#chat = options.chatUrl ?? `${root}/api/v2/bali-zero/chat`;
  }

  /** Ask, or find the stream that this key stands for. */
  ask(question: Question, key: string, signal: AbortSignal): Promise<Response> {
    const headers = { Accept: EVENTS_TYPE, "Idempotency-Key": key };
    if (this.#options.method !== "GET") return this.#post(this.#url, question, headers, signal);
    const fields = Object.entries(question)
      .filter(([, value]) => value != null)
      .map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
    const mark = this.#url.includes("?") ? "&" : "?";
    return this.#send(`${this.#url}${mark}${new URLSearchParams(fields)}`, { headers, signal });
  }

  /** Ask, or find the stream, and be told only where it is. */
  create(question: Question, key: string, signal: AbortSignal): Promise<Response> {
    return this.#post(this.#streams, question, { Accept: JSON_TYPE, "Idempotency-Key": key }, signal);
  }

  /** Read on after `cursor`; a snapshot where events are missing. */
  attach(streamId: string, cursor: string, signal: AbortSignal): Promise<Response> {
    const headers = { Accept: EVENTS_TYPE, "Last-Event-ID": cursor };
    return this.#send(`${this.#streams}/${streamId}/events?on_gap=snapshot`, { headers, signal });
  }

  /** Look at a stream's state and text. */
  status(streamId: string, signal: AbortSignal): Promise<Response> {
    return this.#send(`${this.#streams}/${streamId}`, { headers: { Accept: JSON_TYPE }, signal });
  }

  /** End an answer for good. */
  stop(streamId: string, signal: AbortSignal): Promise<Response> {
    return this.#send(`${this.#streams}/${streamId}/stop`, { method: "POST", signal, keepalive: true });
  }

  /** Tell how it was. Outlives the page. */
  report(streamId: string, figures: Figures): Promise<Response> {
    return this.#post(`${this.#streams}/${streamId}/report`, figures, {}, null, true);
  }

  /** Ask for a whole answer at once. */
  chat(question: Question, signal: AbortSignal): Promise<Response> {
    return this.#post(this.#chat, question, { Accept: JSON_TYPE }, signal);
  }

  #post(
    url: string,
    fields: object,
    more: Headers,
    signal: AbortSignal | null,
    keepalive = false,
  ): Promise<Response> {
    const headers = { "Content-Type": JSON_TYPE, ...more };
    return this.#send(url, { method: "POST", headers, body: JSON.stringify(fields), signal, keepalive });
  }

  async #send(url: string, request: RequestInit): Promise<Response> {
    const response = await this.#sendOnce(url, request);
    if (response.status !== 401 || !(await this.#options.refresh?.())) return response;
    await response.body?.cancel();
    return this.#sendOnce(url, request);
  }

  async #sendOnce(url: string, request: RequestInit): Promise<Response> {
    const { headers, credentials } = this.#options;
    const own = typeof headers === "function" ? await headers() : headers;
    return this.#around.fetch(url, {
      cache: "no-store",
      ...(credentials && { credentials }),
      ...request,
      headers: { ...own, ...(request.headers as Headers | undefined) },
    });
  }
}
