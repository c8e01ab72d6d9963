/** What a stream needs of the world around it: network, time, chance and the page. Tests bring their own. */

/** Why a page may want its line back at once. */
export type Wake = "visible" | "shown" | "online";

/** Network, time, chance and page. */
export interface Surroundings {
  fetch(url: string, init: RequestInit): Promise<Response>;
  /** Milliseconds by a clock that never goes back, for durations that people see. */
  now(): number;
  /** Milliseconds since the epoch: a clock that also counts the time a device slept. */
  epochMs(): number;
  /** A number in [0, 1). */
  chance(): number;
  /** Call back once after `ms`, unless the function that it gives is called before. */
  after(ms: number, callback: () => void): () => void;
  /** An idempotency key that nobody can guess: visible ASCII, at least 22 characters. */
  makeKey(): string;
  isOnline(): boolean;
  /** Tell of a listener's mistake as if nobody stood between. */
  uncaught(error: unknown): void;
  /** Call back whenever the page wakes; gives a function that ends it. */
  onWake(callback: (wake: Wake) => void): () => void;
}

/** The browser's own, or Node's. */
export const SURROUNDINGS: Surroundings = {
  fetch: (url, init) => globalThis.fetch(url, init),
  now: () => performance.now(),
  epochMs: () => Date.now(),
  chance: () => Math.random(),
  after(ms, callback) {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
  makeKey() {
    const bytes = globalThis.crypto?.getRandomValues(new Uint8Array(18));
    if (bytes === undefined) throw new Error("There is no secure randomness here: give an idempotencyKey.");
    return btoa(String.fromCharCode(...bytes));
  },
  isOnline: () => globalThis.navigator?.onLine !== false,
  uncaught(error) {
    queueMicrotask(() => {
      throw error;
    });
  },
  onWake(callback) {
    if (typeof document === "undefined") return () => undefined;
    const ending = new AbortController();
    const { signal } = ending;
    document.addEventListener(
      "visibilitychange",
      () => {
        if (document.visibilityState === "visible") callback("visible");
      },
      { signal },
    );
    addEventListener("pageshow", ({ persisted }) => persisted && callback("shown"), { signal });
    addEventListener("online", () => callback("online"), { signal });
    return () => ending.abort();
  },
};

/** Wait so long, or until `signal` is aborted. */
export function sleep(around: Surroundings, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
      return;
    }
    const wake = (): void => {
      cancel();
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const cancel = around.after(ms, wake);
    signal.addEventListener("abort", wake);
  });
}
