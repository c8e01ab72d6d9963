/** Everything a page may import. */

export { BaliZeroStreamClient } from "./bali-zero.js";
export type { BaliZeroAbout, BaliZeroMetrics, BaliZeroOptions, BaliZeroResult } from "./bali-zero.js";
export { SubakError } from "./errors.js";
export { ChatFallback } from "./fallback.js";
export type { GatewayOptions } from "./gateway.js";
export type { Figures, Metrics } from "./metrics.js";
export { EventStreamParser, EventTooLarge, type ServerEvent } from "./parser.js";
export {
  type ContentEvent,
  type Outcome,
  type State,
  type StateChange,
  type StreamEvent,
  type StreamOptions,
  SubakStream,
} from "./stream.js";
export type { Surroundings, Wake } from "./surroundings.js";
export type { Done, Envelope, ErrorData, Metadata, Question, Source, Status, Turn } from "./wire.js";
