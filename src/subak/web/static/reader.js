/**
 * The reader's rule: what makes a delivery that may repeat itself exactly once in effect (docs/PROTOCOL.md, section 6).
 *
 * Pure functions over plain values: they know no network, no clock and no page.
 *
 *     seq <= last       drop    it was read before
 *     seq == last + 1   apply
 *     seq >  last + 1   gap     ask for the whole text, replace it, attach again after it
 */

/** An answer before its first event. `last` is the seq of the newest event applied: 1 for the first. */
export const NOTHING_READ = Object.freeze({
  streamId: null,
  last: 0,
  text: "",
  sources: Object.freeze([]),
  ending: null,
  duplicates: 0,
  gaps: 0,
});

/** What to do with event `seq` after event `last`: "drop", "apply" or "gap". */
export function judge(last, seq) {
  if (seq <= last) return "drop";
  return seq === last + 1 ? "apply" : "gap";
}

/** The answer with one more event in it; `judge` must have said "apply". */
export function applied(answer, event) {
  const next = { ...answer, last: event.sequence };
  switch (event.type) {
    case "metadata":
      return { ...next, streamId: event.data.streamId };
    case "token":
      return { ...next, text: answer.text + event.data };
    case "sources":
      return { ...next, sources: [...answer.sources, ...event.data] };
    case "done":
      return { ...next, ending: { reason: event.data.finish_reason, error: null } };
    case "error":
      return { ...next, ending: { reason: null, error: event.data } };
    default:
      return next; // A later version's event: it moves the cursor, nothing else.
  }
}

/** The answer after an event that was read before: counted, not applied. */
export function dropped(answer) {
  return { ...answer, duplicates: answer.duplicates + 1 };
}

/** The answer after a gap: its text replaced by what `GET /v1/streams/{id}` gave. */
export function repaired(answer, status) {
  return {
    ...answer,
    last: status.last_seq,
    text: status.text,
    ending: endingOfStatus(status),
    gaps: answer.gaps + (status.last_seq > answer.last ? 1 : 0),
  };
}

/** Where to resume: everything up to here was applied. Null before the first event. */
export function cursorOf(answer) {
  return answer.streamId === null ? null : `${answer.streamId}.${answer.last}`;
}

/** How long to wait before the next attempt, in ms: full jitter, 1 s to 30 s. `chance` is in [0, 1). */
export function backOffMs(attempt, chance) {
  return Math.floor(chance * Math.min(30_000, 1_000 * 2 ** attempt));
}

function endingOfStatus(status) {
  if (status.error) return { reason: null, error: status.error };
  return status.finish_reason ? { reason: status.finish_reason, error: null } : null;
}
