/** How long to wait before coming back. */

/** What bounds the waits between attempts, in ms. */
export interface BackOff {
  readonly baseMs: number;
  readonly maxMs: number;
}

/** Statuses that pass by themselves. */
const PASSING = new Set([408, 425, 429]);

/** Full jitter: up to 1 s, 2 s, 4 s, … 30 s by default. `attempt` counts from 0, `chance` is in [0, 1). */
export function fullJitterMs(attempt: number, chance: number, { baseMs, maxMs }: BackOff): number {
  return chance * Math.min(maxMs, baseMs * 2 ** attempt);
}

/** Whether an answer with this status may pass: the others say the same however often they are asked. */
export function isPassing(status: number): boolean {
  return status >= 500 || PASSING.has(status) || (status < 400 && status !== 204);
}

/** Read a `Retry-After`: seconds or a date. `now` in ms since the epoch. Undefined without a valid one. */
export function retryAfterMs(value: string | null, now: number): number | undefined {
  if (value === null) return undefined;
  const ms = /^\s*\d+\s*$/.test(value) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}
