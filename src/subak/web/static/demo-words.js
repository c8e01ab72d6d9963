/** What the page says of the line and of an ending. */

export const READY = "Ready.";
export const ASKING = "Asking …";
export const FOLLOWING = "Reading an answer that was asked for before …";
export const LIVE = "Live: the answer is coming.";
export const POLLING = "Something in between holds the stream back: fetching the answer piece by piece.";
export const STOPPING = "Stopping …";
export const TOO_MANY = "Too many questions for now (429). This page asks again as soon as it may.";
export const UNREACHABLE = "The gateway can’t be reached. Is it running? Trying again …";
export const LEFT = "Left. Should the question have arrived after all, the gateway ends its answer by itself.";
export const BY_CHAT = "Streaming is off here: asking for the whole answer by POST /chat …";

const ENDINGS = {
  stop: "Complete.",
  length: "Ended at its greatest length.",
  content_filter: "Ended by a content filter.",
  cancelled: "Stopped. What had come by then is kept.",
  abandoned: "Ended by the gateway: nobody was listening any more.",
};
const ENDED_BY_CHAT =
  "Complete, in one piece by POST /chat: streaming is off here. ENABLE_SSE_STREAMING=true turns it on.";
const GONE = "The gateway no longer keeps this answer; it may have been restarted. What had come by then stands below.";
const WANTS_KEY = "This gateway answers only those it knows (401). Give an API key or a token, and ask again.";
const GAVE_UP = "The gateway can’t be reached. Is it running? Ask again when it is.";

export const busy = (status) => `The gateway can’t answer just now (${status}). Trying again …`;
export const cutAfter = (seq) => `Line cut after event ${seq}. The gateway writes on.`;
export const lostAfter = (seq) => `Line lost after event ${seq}. The gateway writes on.`;
export const offAfter = (seq) => `Off since event ${seq}, as a phone that sleeps. The gateway writes on for a while.`;
export const resumingAfter = (seq) => `Resuming after event ${seq} …`;
export const resumedAfter = (seq) => `Resumed after event ${seq}. Nothing was asked twice.`;

/** How a whole answer ended, and over how many lines it came. */
export function ofEnding({ finish_reason: reason, transport }, { reconnects }) {
  if (transport === "chat") return ENDED_BY_CHAT;
  const lines = reconnects === 0 ? "" : ` Asked once, read over ${reconnects + 1} connections.`;
  return `${ENDINGS[reason] ?? "Ended."}${lines} (finish_reason: ${reason})`;
}

/** Why there is no whole answer. */
export function ofError({ code, status, message }) {
  if (status === 401) return WANTS_KEY;
  if (code === "cursor_expired" || status === 404 || status === 410) return GONE;
  if (code === "gave_up" || code === "network") return GAVE_UP;
  return `${message} (${status === undefined ? code : `${status} ${code}`})`;
}
