import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { createParser } from "eventsource-parser";
import fc from "fast-check";
import { EventStreamParser, EventTooLarge } from "../dist/subak-client.js";

const { EventSourceStream } = createRequire(import.meta.url)("undici/lib/web/eventsource/eventsource-stream.js");
const RUNS = Number(process.env.SUBAK_TEST_RUNS) || 300;

// Whole blocks are likely, and so is everything that could be taken for something else: lone CRs, bytes of half a
// character, BOMs, line separators of Unicode, fields without a value.
const text = (...pieces) => pieces.map((piece) => Buffer.from(piece));
const FRAGMENTS = [
  ...text("\n", "\n", "\n\n", "\n\n", "\r", "\r\r", "\r\n", "\r\n\r\n", "\n\r", "data", "data:", "data: ", "\ndata: "),
  ...text("\nevent: ", "\nid: ", "\nretry: ", "\n: ", "event", "event: ", "id", "id: ", "retry: ", "foo: ", ":", " "),
  ...text("\t", "\0", "a", "{}", "7", "250", "é", "€", "😀", "\u2028", "\x85", "\ufeff", "٣", "9".repeat(20)),
  ...text("\ndata: a\n\n", "\nid: 7\ndata: b\n\n", "\revent: x\r\ndata: c\r\r", "\nretry: 30\ndata: d\n\r", "\nid: 8\r\r"),
  ...[[0xef], [0xbb], [0xbf], [0xf0, 0x9f], [0x98], [0x80], [0xed, 0xa0, 0x80], [0xc0, 0xaf], [0xff]].map(Buffer.from),
];
const BOM = Buffer.from("\ufeff");
const bytes = fc
  .tuple(fc.constantFrom(Buffer.alloc(0), BOM, BOM.subarray(0, 2)), fc.array(fc.constantFrom(...FRAGMENTS), { maxLength: 60, size: "max" }))
  .map(([start, fragments]) => Buffer.concat([start, ...fragments]));
const cutStream = fc
  .tuple(bytes, fc.array(fc.nat(400), { maxLength: 12 }))
  .map(([raw, cuts]) => cutAt(raw, cuts.map((cut) => cut % (raw.length + 1))));

function cutAt(raw, cuts) {
  const bounds = [0, ...cuts.sort((one, other) => one - other), raw.length];
  return bounds.slice(1).map((end, index) => raw.subarray(bounds[index], end));
}

function readByUs(chunks) {
  const parser = new EventStreamParser();
  const events = chunks.flatMap((chunk) => parser.feed(chunk));
  return { events, retry: parser.retry, lastEventId: parser.lastEventId };
}

/** It takes text, and holds a CR at the end of its input back: so every stream goes on with a comment. */
function readByEventsourceParser(chunks) {
  const events = [];
  let retry;
  const parser = createParser({
    onEvent: ({ event, data }) => events.push({ type: event ?? "message", data }),
    onRetry: (ms) => (retry = ms),
  });
  const decoder = new TextDecoder();
  for (const chunk of chunks) parser.feed(decoder.decode(chunk, { stream: true }));
  return { events, retry };
}

async function readByUndici(chunks) {
  const events = [];
  const state = { lastEventId: "", reconnectionTime: undefined };
  const stream = new EventSourceStream({
    eventSourceSettings: state,
    push: (item) => item && events.push({ type: item.type, data: item.options.data, id: item.options.lastEventId }),
  });
  await new Promise((resolve, reject) => {
    stream.on("finish", resolve).on("error", reject);
    for (const chunk of chunks) stream.write(chunk);
    stream.end();
  });
  return { events, retry: state.reconnectionTime, lastEventId: state.lastEventId };
}

/** Whether undici reads it as the standard does: it takes empty `id` and `event` fields for none. */
const hasEmptyField = (raw) => /(^|[\r\n])(\ufeff)?(id|event)(: ?)?[\r\n]/.test(raw.toString());
/** Characters that look like a BOM misread as Latin-1: eventsource-parser drops them at the start. */
const GOES_ON = Buffer.from(":\n\n");

test("eventsource-parser reads the same events and reconnection times", () => {
  fc.assert(
    fc.property(cutStream, (chunks) => {
      const ours = readByUs([...chunks, GOES_ON]);
      const theirs = readByEventsourceParser([...chunks, GOES_ON]);
      assert.deepEqual(ours.events.map(({ type, data }) => ({ type, data })), theirs.events);
      assert.equal(ours.retry, theirs.retry);
    }),
    { numRuns: RUNS },
  );
});

test("undici reads the same events, ids and reconnection times", async () => {
  await fc.assert(
    fc.asyncProperty(cutStream, async (chunks) => {
      fc.pre(!hasEmptyField(Buffer.concat([...chunks, GOES_ON])));
      assert.deepEqual(readByUs([...chunks, GOES_ON]), await readByUndici([...chunks, GOES_ON]));
    }),
    { numRuns: RUNS },
  );
});

test("where a stream is cut makes no difference: all splits in two, and byte by byte", () => {
  fc.assert(
    fc.property(bytes, (raw) => {
      const whole = readByUs([raw]);
      for (let cut = 0; cut <= raw.length; cut += 1)
        assert.deepEqual(readByUs([raw.subarray(0, cut), raw.subarray(cut)]), whole);
      assert.deepEqual(readByUs(Array.from(raw, (byte) => Uint8Array.of(byte))), whole);
    }),
    { numRuns: RUNS },
  );
});

test("the generated streams are worth reading", () => {
  const read = fc.sample(cutStream, { numRuns: 500, seed: 7 }).map(readByUs);
  const share = (holds) => read.filter(holds).length / read.length;
  assert.ok(share(({ events }) => events.length > 1) > 0.5);
  assert.ok(share(({ events }) => events.some(({ data }) => data.includes("\ufffd"))) > 0.1);
  assert.ok(share(({ retry }) => retry !== undefined) > 0.2);
  assert.ok(share(({ lastEventId }) => lastEventId !== "") > 0.2);
});

test("a reset forgets what was begun, and keeps the id and the reconnection time", () => {
  const parser = new EventStreamParser();
  parser.feed(Buffer.from("retry: 9\nid: 7\ndata: a\n\nid: 8\nevent: x\ndata: hal\r"));
  parser.reset();
  assert.deepEqual(parser.feed(Buffer.from("\ufeffdata: b\n\n")), [{ type: "message", data: "b", id: "7" }]);
  assert.deepEqual([parser.lastEventId, parser.retry], ["7", 9]);
});

test("a line and an event are taken up to their bound, and not beyond", () => {
  const line = (length) => `data:${"x".repeat(length - 5)}\n\n`;
  assert.equal(new EventStreamParser(20).feed(Buffer.from(line(20))).length, 1);
  assert.throws(() => new EventStreamParser(20).feed(Buffer.from(line(21))), EventTooLarge);
  const parser = new EventStreamParser(20);
  assert.throws(() => {
    for (;;) parser.feed(Buffer.from("x"));
  }, EventTooLarge);
  const lines = (count) => Buffer.from(`${"data:1234\n".repeat(count)}\n`);
  assert.equal(new EventStreamParser(20).feed(lines(4)).length, 1);
  assert.throws(() => new EventStreamParser(20).feed(lines(5)), EventTooLarge);
});
