/**
 * The network as this page uses it: the real one, but it can be cut, and switched off as a phone that sleeps does it.
 * Tells what is sent over it, and what comes back to the letter.
 */

const STREAM_TYPE = "text/event-stream";

/** What stands between one answer's reader and the gateway. */
export class Line {
  #cutter = new AbortController();
  #isOff = false;
  #listener = null;

  get isOff() {
    return this.#isOff;
  }

  /** Call `sent(request, isStream)` for each request, `received(text)` and `broken()` for what streams bring. */
  listen(listener) {
    this.#listener = listener;
  }

  /** What a `SubakStream` takes as its `surroundings`. */
  get surroundings() {
    return { fetch: (url, init) => this.#fetch(url, init), isOnline: () => navigator.onLine && !this.#isOff };
  }

  /** Lose what is being read, as a network does that breaks. */
  cut() {
    this.#cutter.abort(new TypeError("The line was cut."));
    this.#cutter = new AbortController();
  }

  /** Lose it, and let nothing through until it is switched on again. */
  switchOff() {
    this.#isOff = true;
    this.cut();
  }

  /** Let everything through again, and tell the page what a device tells it that is back. */
  switchOn() {
    this.#isOff = false;
    dispatchEvent(new Event("online"));
  }

  async #fetch(url, init) {
    if (this.#isOff) throw new TypeError("The line is switched off.");
    const isStream = init.headers.Accept === STREAM_TYPE;
    this.#listener.sent({ url: new URL(url, location.origin), ...init }, isStream);
    if (!isStream) return fetch(url, init);
    const response = await fetch(url, { ...init, signal: AbortSignal.any([init.signal, this.#cutter.signal]) });
    const isRead = response.status === 200 && response.body !== null;
    return isRead ? new Response(this.#overheard(response.body), response) : response;
  }

  /** A line ends by its last event, after which nobody reads on; all else breaks it. */
  #overheard(body) {
    const decoder = new TextDecoder();
    const tell = (chunk, controller) => {
      this.#listener.received(decoder.decode(chunk, { stream: true }));
      controller.enqueue(chunk);
    };
    const ears = new TransformStream({ transform: tell });
    body.pipeTo(ears.writable).catch(() => this.#listener.broken());
    return ears.readable;
  }
}
