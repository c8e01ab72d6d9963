/** Whole answers by `POST /chat`, where the gateway doesn't stream for this caller: a rollout harms nobody. */

import { isPassing, retryAfterMs } from "./backoff.js";
import { SubakError } from "./errors.js";
import type { Gateway } from "./gateway.js";
import { type Envelope, jsonOf, type Question } from "./wire.js";

/**
 * Asks for a whole answer instead of a streamed one, and remembers for a while that this gateway doesn't stream here, so
 * that not every question has to find out. Give one to all streams of a page.
 */
export class ChatFallback {
  readonly #rememberMs: number;
  #until = 0;

  constructor(rememberMs = 300_000) {
    this.#rememberMs = rememberMs;
  }

  /** Whether it was found out lately. `now` in ms since the epoch, here and below. */
  isRemembered(now: number): boolean {
    return now < this.#until;
  }

  /** Whether a refusal says that there is no streaming here; no stream was made by it. */
  takes(status: number, code: unknown, now: number): boolean {
    const isTaken = status === 404 || status === 405 || (status === 403 && code === "feature_flag_disabled");
    if (isTaken) this.#until = now + this.#rememberMs;
    return isTaken;
  }

  /** Ask once. Gives the answer as events; throws a `SubakError` with the code `chat_failed`. */
  async ask(gateway: Gateway, question: Question, signal: AbortSignal, now: number): Promise<Envelope[]> {
    const response = await gateway.chat(question, signal).catch((error: unknown) => {
      throw new SubakError("chat_failed", "The gateway can't be reached.", { isRetryable: true, data: error });
    });
    const body = await jsonOf(response);
    if (!response.ok || typeof body["response"] !== "string") throw chatFailed(response, body, now);
    const events: [string, unknown][] = [["token", body["response"]]];
    if (Array.isArray(body["sources"])) events.push(["sources", body["sources"]]);
    events.push(["done", { finish_reason: "stop", transport: "chat" }]);
    return events.map(([type, data], index) => ({ type, data, sequence: index + 1, timestamp: now }));
  }
}

function chatFailed({ status, headers }: Response, data: unknown, now: number): SubakError {
  return new SubakError("chat_failed", `There is no whole answer (${status}).`, {
    status,
    retryAfterMs: retryAfterMs(headers.get("Retry-After"), now),
    isRetryable: status >= 400 && isPassing(status),
    data,
  });
}
