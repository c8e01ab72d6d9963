/**
 * Event streams: the bytes of one response to events (WHATWG HTML, "Parsing an event stream").
 *
 * It knows nothing of JSON, seqs or streams, and no network.
 */

/** One dispatched event. `type` is "message" without a field of its own; `id` is the last id in force. */
export interface ServerEvent {
  readonly type: string;
  readonly data: string;
  readonly id: string;
}

/** A line, or the data of one event, outgrew its bound. The parser takes nothing more until `reset`. */
export class EventTooLarge extends Error {
  override readonly name = "EventTooLarge";
}

/** As many UTF-16 units as a snapshot of the longest answer can have (4 MiB of text, each byte escaped), and some. */
const MAX_UNITS = 32 * 1024 * 1024;

/**
 * Turns chunks of any size into events: `feed` bytes, `reset` before another response.
 *
 * It holds at most one unfinished line and the data of one unfinished event, each at most `maxUnits` long. What no blank
 * line has ended is dropped with it, as the standard demands.
 */
export class EventStreamParser {
  /** The last id in force; moves when a blank line ends its block. */
  lastEventId = "";
  /** The last reconnection time that was said, in ms. */
  retry: number | undefined;
  readonly #maxUnits: number;
  #decoder = new TextDecoder();
  #line = "";
  #isAfterCr = false;
  #data = "";
  #type = "";
  #id = "";

  constructor(maxUnits: number = MAX_UNITS) {
    this.#maxUnits = maxUnits;
  }

  /** Make ready for a new response. `lastEventId` and `retry` are kept. */
  reset(): void {
    this.#decoder = new TextDecoder();
    this.#line = this.#data = this.#type = "";
    this.#id = this.lastEventId;
    this.#isAfterCr = false;
  }

  /** Take the next bytes and give the events that they complete, in order. Throws `EventTooLarge`. */
  feed(chunk: Uint8Array): ServerEvent[] {
    const events: ServerEvent[] = [];
    let text = this.#decoder.decode(chunk, { stream: true });
    if (text === "") return events;
    if (this.#isAfterCr && text.startsWith("\n")) text = text.slice(1);
    this.#isAfterCr = text === "" ? false : text.endsWith("\r");
    let start = 0;
    let lf = text.indexOf("\n");
    let cr = text.indexOf("\r");
    while (lf >= 0 || cr >= 0) {
      const isCr = lf < 0 || (cr >= 0 && cr < lf);
      const end = isCr ? cr : lf;
      this.#hold(text.slice(start, end));
      this.#take(this.#line, events);
      this.#line = "";
      start = end + (isCr && lf === cr + 1 ? 2 : 1);
      if (lf >= 0 && lf < start) lf = text.indexOf("\n", start);
      if (cr >= 0 && cr < start) cr = text.indexOf("\r", start);
    }
    this.#hold(text.slice(start));
    return events;
  }

  #hold(part: string): void {
    this.#line += part;
    if (this.#line.length > this.#maxUnits) throw new EventTooLarge("A line is too long.");
  }

  #take(line: string, events: ServerEvent[]): void {
    if (line === "") {
      this.#dispatch(events);
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    switch (field) {
      case "data":
        this.#data += `${value}\n`;
        if (this.#data.length > this.#maxUnits + 1) throw new EventTooLarge("An event is too long.");
        break;
      case "event":
        this.#type = value;
        break;
      case "id":
        if (!value.includes("\0")) this.#id = value;
        break;
      case "retry":
        if (/^[0-9]+$/.test(value)) this.retry = Number(value);
    }
  }

  #dispatch(events: ServerEvent[]): void {
    this.lastEventId = this.#id;
    if (this.#data !== "")
      events.push({ type: this.#type || "message", data: this.#data.slice(0, -1), id: this.#id });
    this.#data = this.#type = "";
  }
}
