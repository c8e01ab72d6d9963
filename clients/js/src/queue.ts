/** Events on their way to one `for await` loop. */

/** First in, first out. A writer that respects `room` keeps it short. */
export class EventQueue<T> {
  readonly #most: number;
  #events: T[] = [];
  #isClosed = false;
  #onEvent = noop;
  #onRoom = noop;

  constructor(most: number) {
    this.#most = most;
  }

  put(event: T): void {
    this.#events.push(event);
    this.#onEvent();
  }

  /** Let the loop end once it has taken what is there. */
  close(): void {
    this.#isClosed = true;
    this.#onEvent();
    this.#onRoom();
  }

  /** Give the next events, as soon as there are any; none when the queue was closed. */
  async take(): Promise<T[]> {
    while (this.#events.length === 0 && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#onEvent = resolve;
      });
    }
    const taken = this.#events;
    this.#events = [];
    this.#onRoom();
    return taken;
  }

  /** Whether a writer should wait. */
  get isFull(): boolean {
    return this.#events.length >= this.#most && !this.#isClosed;
  }

  /** Return once more may come. */
  async room(): Promise<void> {
    while (this.isFull) {
      await new Promise<void>((resolve) => {
        this.#onRoom = resolve;
      });
    }
  }
}

function noop(): void {
  // Nobody waits.
}
