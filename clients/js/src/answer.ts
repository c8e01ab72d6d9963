/**
 * The reader's rule: what makes a delivery that may repeat itself exactly once in effect (docs/PROTOCOL.md, section 6).
 *
 *     seq <= last       drop    it was read before
 *     seq == last + 1   apply
 *     seq >  last + 1   gap     ask for the whole text, replace it, attach again
 *
 * No network, no clock.
 */

import type { Done, Envelope, ErrorData, Source, Status } from "./wire.js";

/** What to do with an event. `late`: its text is known already, what else it bears isn't. */
export type Verdict = "drop" | "late" | "apply" | "gap";

/** How an answer ended. */
export type Ending = { readonly done: Done } | { readonly error: ErrorData };

/** One answer as far as it was read. */
export class Answer {
  streamId = "";
  text = "";
  sources: Source[] = [];
  ending: Ending | null = null;
  /** The text is known up to this seq … */
  #last = 0;
  /** … and events were read up to this one: less, once a status has told the text. */
  #read = 0;

  /** Where to come back: `{stream id}.{seq}`, empty before the stream is known. */
  get cursor(): string {
    return this.streamId && `${this.streamId}.${this.#read}`;
  }

  /** The seq up to which the text is known: 1 for the first event. */
  get last(): number {
    return this.#last;
  }

  /** Say what to do with an event. */
  judge({ type, sequence }: Envelope): Verdict {
    if (sequence > this.#last + 1) return "gap";
    if (sequence === this.#last + 1) return "apply";
    return type === "sources" && sequence > this.#read ? "late" : "drop";
  }

  /** Take an event in that is to be applied, or is late. */
  apply({ type, data, sequence }: Envelope): void {
    this.#read = sequence;
    this.#last = Math.max(this.#last, sequence);
    if (type === "token") this.text += data as string;
    else if (type === "sources") this.sources = [...this.sources, ...(data as Source[])];
    else if (type === "done") this.ending = { done: data as Done };
    else if (type === "error") this.ending = { error: data as ErrorData };
  }

  /** Take what a snapshot tells: everything up to `sequence`, which the stream no longer has event by event. */
  replace(text: string, sequence: number): void {
    this.text = text;
    this.#last = this.#read = sequence;
  }

  /** Take the text that a status tells. False when it is older than what was read. The terminal event isn't in it. */
  learn(status: Status): boolean {
    const upto = status.last_seq - (endingOf(status) === null ? 0 : 1);
    if (upto < this.#last) return false;
    this.text = status.text;
    this.#last = upto;
    return true;
  }
}

/** Give the ending that a status tells; null for an answer under way. */
export function endingOf({ finish_reason, error }: Status): Ending | null {
  if (error !== undefined) return { error };
  return finish_reason === undefined ? null : { done: { finish_reason } };
}
