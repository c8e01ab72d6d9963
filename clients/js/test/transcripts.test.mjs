// The transcripts that the gateway's own tests record and read (tests/transcripts): here they are the network.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { SubakStream } from "../dist/subak-client.js";
import { STREAM_ID, World } from "../testing/world.mjs";

const FOLDER = new URL("../../../tests/transcripts/", import.meta.url);
const INDEX = JSON.parse(readFileSync(new URL("transcripts.json", FOLDER)));
const EVENTS = "text/event-stream";

const bodyOf = ({ body }) => (body === null ? new Uint8Array() : readFileSync(new URL(body, FOLDER)));

/** A recorded response, in pieces of so many bytes; one that was aborted ends in an error. */
function played(exchange, pieceBytes) {
  const { status, headers, ends } = exchange;
  const left = [...piecesOf(bodyOf(exchange), pieceBytes)];
  const pull = (controller) => {
    if (left.length > 0) controller.enqueue(left.shift());
    else if (ends === "clean") controller.close();
    else controller.error(new TypeError("network error"));
  };
  return new Response(status === 204 ? null : new ReadableStream({ pull }, { highWaterMark: 0 }), { status, headers });
}

function* piecesOf(content, pieceBytes) {
  for (let at = 0; at < content.length; at += pieceBytes) yield content.subarray(at, at + pieceBytes);
}

for (const { name, description, exchanges, text, terminal } of INDEX) {
  const lines = exchanges.filter(({ headers }) => headers["content-type"] === EVENTS);
  for (const pieceBytes of [1, 7, 65_536])
    test(`${name}, ${pieceBytes} bytes at a time: ${description}`, async () => {
      const world = new World().answer(...lines.map((line) => played(line, pieceBytes)));
      const ended = new SubakStream({ question: { query: "?" }, surroundings: world.surroundings });
      const outcome = ended.start().then(
        ({ done }) => ({ type: "done", finish_reason: done.finish_reason }),
        ({ code }) => ({ type: "error", code }),
      );
      await world.pass(60_000);
      const ending = await Promise.race([outcome, "it hasn't ended"]);
      assert.equal(ended.text, text);
      assert.deepEqual({ ...ending, ...terminal }, ending);
      assert.equal(ended.streamId, STREAM_ID);
      assert.ok(world.requests.slice(1).every(({ method }) => method === "GET"), "asked once");
      assert.equal(ended.metrics.gaps, 0);
    });
}
