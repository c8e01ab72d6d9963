// What an application writes, so that the package's types are held to it: compiled by test/bundles.test.mjs, never run.
import {
  BaliZeroStreamClient,
  ChatFallback,
  type Outcome,
  type Source,
  SubakError,
  SubakStream,
} from "../dist/index.js";

const question = { query: "?", conversation_history: [{ role: "user" as const, content: "Hi" }] };
const options = { question, fallback: new ChatFallback(), headers: async () => ({ "x-api-key": "k" }), report: true };

export async function read(show: (text: string) => void, cite: (sources: Source[]) => void): Promise<Outcome> {
  const stream = new SubakStream(options);
  const off: () => void = stream.on("state", ({ data }) => show(`${data.state} ${data.delayMs ?? 0}`));
  for await (const event of stream) {
    if (event.type === "token" || event.type === "replace") show(event.data);
    if (event.type === "sources") cite(event.data);
    if (event.type === "done") show(event.data.finish_reason);
  }
  off();
  return stream.start().catch((error: unknown) => {
    throw error instanceof SubakError ? new Error(`${error.code} ${error.status ?? ""} ${error.isRetryable}`) : error;
  });
}

export async function readAsBefore(): Promise<number | null> {
  const client = new BaliZeroStreamClient({
    baseUrl: "/api/v2/bali-zero/chat-stream",
    onToken: (text, { sequence, metrics }) => void [text.length, sequence, metrics.tokensReceived],
    onError: (error, data) => void [error.message, data?.code],
  });
  const { metrics, finalData } = await client.stream(question);
  return finalData.transport === "chat" ? null : metrics.firstTokenLatency;
}

// @ts-expect-error -- a question has a query
new SubakStream({ question: {} });
