/** What goes over the wire: the contract's JSON as types (docs/PROTOCOL.md, sections 2 and 3). */

/** One turn of a conversation. */
export interface Turn {
  role: "user" | "assistant";
  content: string;
}

/** A question. */
export interface Question {
  query: string;
  user_email?: string | undefined;
  user_role?: string | undefined;
  conversation_history?: readonly Turn[] | undefined;
}

/** Where a part of an answer comes from. */
export interface Source {
  source: string;
  snippet: string;
  similarity: number;
  tier?: string;
  dateLastCrawled?: string;
}

/** The data of a stream's first event. */
export interface Metadata {
  status: string;
  connectionId: string;
  streamId: string;
  timestamp: number;
}

/** The data of `done`. */
export interface Done {
  finish_reason: string;
  metrics?: Record<string, number | null>;
  usage?: Record<string, number>;
  transport?: "chat";
}

/** The data of `error`. */
export interface ErrorData {
  code: string;
  message: string;
  retryable?: boolean;
  retryAfter?: number;
}

/** The JSON of an event's data. */
export interface Envelope {
  type: string;
  data: unknown;
  sequence: number;
  timestamp: number;
}

/** The answer to `GET /v1/streams/{id}`. */
export interface Status {
  id: string;
  status: string;
  last_seq: number;
  text: string;
  finish_reason?: string;
  error?: ErrorData;
}

/** Give the envelope of an event's data; null for anything else. */
export function envelopeOf(data: string): Envelope | null {
  const value = parsed(data) as Partial<Envelope> | null;
  return typeof value?.type === "string" && Number.isSafeInteger(value.sequence) ? (value as Envelope) : null;
}

/** Give a response's JSON object; an empty one if its body is anything else. */
export async function jsonOf(response: Response): Promise<Record<string, unknown>> {
  const value = parsed(await response.text().catch(() => ""));
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
