/** Why there is no whole answer. */

/** What goes with an error. */
export interface ErrorDetails {
  /** The HTTP status of a refusal. */
  readonly status?: number | undefined;
  /** What the gateway asked for. */
  readonly retryAfterMs?: number | undefined;
  /** Whether asking again may succeed. */
  readonly isRetryable?: boolean | undefined;
  /** The body of the refusal, the data of the `error` event, or what was thrown. */
  readonly data?: unknown;
}

/**
 * An answer that failed, was refused or was left. `code` is one of the contract's, or one of ours: `closed`, `stopped`,
 * `gave_up`, `chat_failed`, `refused`. The text that had come is kept by the stream.
 */
export class SubakError extends Error {
  override readonly name = "SubakError";
  readonly code: string;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message);
    this.code = code;
    Object.assign(this, { isRetryable: false, ...details });
  }
}

export interface SubakError extends ErrorDetails {}
