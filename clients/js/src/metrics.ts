/** What one answer was like for its reader. */

/** Times in ms; what can't be told yet is null. The body of a report (docs/PROTOCOL.md, section 2). */
export interface Figures {
  firstTokenMs: number | null;
  /** From one token to the next; those of one read are 0 apart. */
  interTokenP50Ms: number | null;
  interTokenP95Ms: number | null;
  interTokenP99Ms: number | null;
  durationMs: number;
  tokens: number;
  bytes: number;
  /** Lines after the first. */
  reconnects: number;
  /** Events that had been read before. */
  duplicates: number;
  gaps: number;
}

export interface Metrics extends Figures {
  transport: "stream" | "polling" | "chat";
}

/** As many gaps between tokens as a stream has events at most (docs/PROTOCOL.md, section 4). */
const MAX_GAPS = 20_000;

/** Counts and times. All `now`s are in ms, by one clock. */
export class Meter {
  bytes = 0;
  reconnects = 0;
  duplicates = 0;
  gaps = 0;
  tokens = 0;
  transport: Metrics["transport"] = "stream";
  readonly #startedAt: number;
  #firstTokenMs: number | null = null;
  #lastTokenAt = 0;
  #endedAt: number | null = null;
  readonly #between: number[] = [];

  constructor(now: number) {
    this.#startedAt = now;
  }

  /** A token has come. */
  token(now: number): void {
    this.tokens += 1;
    if (this.#firstTokenMs === null) this.#firstTokenMs = now - this.#startedAt;
    else if (this.#between.length < MAX_GAPS) this.#between.push(now - this.#lastTokenAt);
    this.#lastTokenAt = now;
  }

  /** Nothing more will come. */
  end(now: number): void {
    this.#endedAt ??= now;
  }

  /** Give the figures so far. */
  read(now: number): Metrics {
    const { bytes, reconnects, duplicates, gaps, tokens, transport } = this;
    const sorted = [...this.#between].sort((one, other) => one - other);
    const quantile = (part: number): number | null => rounded(sorted[Math.ceil(part * sorted.length) - 1] ?? null);
    return {
      firstTokenMs: rounded(this.#firstTokenMs),
      interTokenP50Ms: quantile(0.5),
      interTokenP95Ms: quantile(0.95),
      interTokenP99Ms: quantile(0.99),
      tokens,
      bytes,
      reconnects,
      duplicates,
      gaps,
      durationMs: rounded((this.#endedAt ?? now) - this.#startedAt),
      transport,
    };
  }
}

/** To a hundredth: browsers tell no more, and differences of their floats have long tails. */
function rounded<T extends number | null>(ms: T): T {
  return (ms === null ? null : Math.round(ms * 100) / 100) as T;
}
