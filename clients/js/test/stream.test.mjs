import assert from "node:assert/strict";
import { test } from "node:test";
import { SubakError, SubakStream } from "../dist/subak-client.js";
import { Line, STREAM_ID, World, done, event, heartbeat, json, metadata, settled, status, token } from "../testing/world.mjs";

const ASK = "POST /api/v2/bali-zero/chat-stream";
const ATTACH = `GET /v1/streams/${STREAM_ID}/events?on_gap=snapshot`;
const STATUS = `GET /v1/streams/${STREAM_ID}`;
const STOP = `POST /v1/streams/${STREAM_ID}/stop`;
const QUESTION = { query: "What is a KITAS?" };

function asking(world, options = {}) {
  return new SubakStream({ question: QUESTION, surroundings: world.surroundings, ...options });
}

/** A stream that was asked and has read metadata and "Ciao " over its first line. */
async function underWay(options = {}) {
  const world = new World();
  const line = new Line();
  const stream = asking(world.answer(line), options);
  const outcome = stream.start();
  outcome.catch(() => undefined);
  await settled();
  await line.send(metadata(), token(2, "Ciao "));
  assert.equal(stream.text, "Ciao ");
  return { world, line, stream, outcome };
}

const failure = (promise) => promise.then(() => assert.fail("it didn't fail"), (error) => error);

test("a whole answer is asked once and told in order", async () => {
  const { world, line, stream, outcome } = await underWay();
  const sources = [{ source: "kitas.md", snippet: "A KITAS is …", similarity: 0.8 }];
  await line.send(event(3, "sources", sources), token(4, "Bali"), done(5));
  const { text, done: ending, streamId, metrics } = await outcome;
  assert.deepEqual([text, ending, streamId], ["Ciao Bali", { finish_reason: "stop" }, STREAM_ID]);
  assert.deepEqual(stream.sources, sources);
  assert.deepEqual([metrics.tokens, metrics.reconnects, metrics.duplicates, metrics.gaps], [2, 0, 0, 0]);
  assert.deepEqual(world.asked, [ASK]);
  assert.equal(world.requests[0].headers["Idempotency-Key"].length, 26);
  assert.deepEqual(world.requests[0].body, QUESTION);
  assert.equal(world.waiting, 0);
});

test("a GET puts the question into the URL, its history as JSON", async () => {
  const world = new World().answer(new Line());
  const question = { ...QUESTION, user_role: "member", conversation_history: [{ role: "user", content: "Hi" }] };
  asking(world, { question, method: "GET" }).start();
  await settled();
  const { method, url } = world.requests[0];
  const fields = Object.fromEntries(new URL(url, "http://x").searchParams);
  assert.deepEqual(fields, { ...QUESTION, user_role: "member", conversation_history: '[{"role":"user","content":"Hi"}]' });
  assert.equal(method, "GET");
});

for (const [how, over] of [
  ["a clean end", (line) => line.end()],
  ["a cut", (line) => line.cut()],
]) {
  test(`${how} without a terminal event comes back with the cursor, and asks nothing twice`, async () => {
    const { world, line, outcome } = await underWay();
    const second = new Line();
    world.answer(second);
    await over(line);
    await world.pass(500);
    assert.deepEqual(world.asked, [ASK, ATTACH]);
    assert.equal(world.requests[1].headers["Last-Event-ID"], `${STREAM_ID}.2`);
    await second.send(token(3, "Bali"), done(4));
    const { text, metrics } = await outcome;
    assert.deepEqual([text, metrics.reconnects, metrics.duplicates], ["Ciao Bali", 1, 0]);
  });
}

test("what comes twice is applied once", async () => {
  const { line, outcome } = await underWay();
  await line.send(token(2, "Ciao "), metadata(), token(3, "Bali"), token(3, "Bali"), done(4));
  const { text, metrics } = await outcome;
  assert.deepEqual([text, metrics.duplicates], ["Ciao Bali", 3]);
});

test("a gap of one event is a gap", async () => {
  const { world, line, stream } = await underWay();
  world.answer(status("Ciao bella Bali", 4), new Line());
  await line.send(token(4, "Bali"));
  assert.deepEqual([stream.text, world.asked], ["Ciao bella Bali", [ASK, STATUS, ATTACH]]);
});

test("what a cut line had begun is not mixed with what the next one brings", async () => {
  const { world, line, outcome } = await underWay();
  const second = new Line();
  world.answer(second);
  await line.send(token(3, "Bali").slice(0, -5));
  await line.cut();
  await world.pass(500);
  await second.send(token(3, "Bali"), done(4));
  assert.equal((await outcome).text, "Ciao Bali");
});

test("lines that bring something are no fruitless attempts, however many are cut", async () => {
  const world = new World();
  const lines = Array.from({ length: 30 }, () => new Line());
  const outcome = asking(world.answer(...lines)).start();
  await settled();
  for (const [index, line] of lines.entries()) {
    await line.send(index === 0 ? metadata() : token(index + 1, "x"));
    await line.cut();
    await world.pass(1_000);
  }
  const last = new Line();
  world.answer(last);
  await world.pass(1_000);
  await last.send(done(31));
  assert.equal((await outcome).text, "x".repeat(29));
});

test("a gap is repaired from the status, and costs no source", async () => {
  const { world, line, stream, outcome } = await underWay();
  const second = new Line();
  world.answer(status("Ciao bella Bali", 5), second);
  await line.send(token(5, "Bali"));
  assert.deepEqual(world.asked, [ASK, STATUS, ATTACH]);
  assert.equal(stream.text, "Ciao bella Bali");
  assert.equal(world.requests[2].headers["Last-Event-ID"], `${STREAM_ID}.2`);
  assert.ok(line.isAborted);
  const sources = [{ source: "kitas.md", snippet: "", similarity: 1 }];
  await second.send(token(3, "bella "), event(4, "sources", sources), token(5, "Bali"), done(6));
  const { text, metrics } = await outcome;
  assert.deepEqual([text, metrics.gaps, metrics.duplicates], ["Ciao bella Bali", 1, 2]);
  assert.deepEqual(stream.sources, sources);
});

test("a heartbeat that is ahead of us is a gap too", async () => {
  const { world, line, stream } = await underWay();
  world.answer(status("Ciao Bali", 3), new Line());
  await line.send(heartbeat(2));
  assert.equal(stream.state, "streaming");
  await line.send(heartbeat(3));
  assert.deepEqual([stream.text, world.asked.length], ["Ciao Bali", 3]);
});

test("a status that is older than what was read changes nothing, and is not asked for without a pause", async () => {
  const { world, line, stream } = await underWay();
  world.answer(status("Ci", 1));
  await line.send(token(9, "?"));
  assert.deepEqual([stream.text, stream.state, world.asked.length], ["Ciao ", "waiting", 2]);
});

test("a question cut before its headers is sent again with the same key", async () => {
  const world = new World().answer(new TypeError("network"), new TypeError("network"), new Line());
  asking(world).start();
  await world.pass(1_500);
  assert.deepEqual(world.asked, [ASK, ASK, ASK]);
  assert.equal(new Set(world.requests.map(({ headers }) => headers["Idempotency-Key"])).size, 1);
});

test("a question cut after its headers is not sent again: they name the stream", async () => {
  const world = new World();
  const line = new Line();
  asking(world.answer(line, new Line())).start();
  await settled();
  await line.cut();
  await world.pass(500);
  assert.deepEqual(world.asked, [ASK, ATTACH]);
  assert.equal(world.requests[1].headers["Last-Event-ID"], `${STREAM_ID}.0`);
});

test("pauses grow from 1 s to 30 s, with full jitter", async () => {
  const world = new World();
  const delays = [];
  const stream = asking(world.answer(...Array(8).fill(new TypeError("network"))));
  stream.on("state", ({ data }) => data.state === "waiting" && delays.push(data.delayMs));
  world.chance = 0.999;
  stream.start().catch(() => undefined);
  await world.pass(100_000);
  assert.deepEqual(delays.slice(0, 7), [999, 1998, 3996, 7992, 15984, 29970, 29970]);
});

test("a pause is never shorter than the retry that the line has said", async () => {
  const { world, line } = await underWay();
  world.chance = 0;
  world.answer(new Line());
  await line.send("retry: 4000\n\n");
  await line.cut();
  await world.pass(3_999);
  assert.equal(world.asked.length, 1);
  await world.pass(1);
  assert.deepEqual(world.asked, [ASK, ATTACH]);
});

test("Retry-After is honoured to the second, whoever wakes; the pause tells why", async () => {
  const limited = json(429, { ok: false, error: "RATE_LIMIT_EXCEEDED", retryAfter: 34 }, { "Retry-After": "34" });
  const world = new World().answer(limited, new Line());
  const stream = asking(world);
  const changes = [];
  stream.on("state", ({ data }) => changes.push(data));
  stream.start();
  await settled();
  const { state, reason, status: refusedWith, delayMs } = changes.at(-1);
  assert.deepEqual([state, reason, refusedWith, delayMs], ["waiting", "RATE_LIMIT_EXCEEDED", 429, 34_000]);
  await world.wake("online");
  await world.pass(33_999);
  assert.equal(world.asked.length, 1);
  await world.pass(1);
  assert.equal(world.asked.length, 2);
});

test("a Retry-After of an hour is a refusal", async () => {
  const world = new World().answer(json(503, { code: "draining" }, { "Retry-After": "3600" }));
  const error = await failure(asking(world).start());
  assert.deepEqual([error.code, error.status, error.retryAfterMs, error.isRetryable], ["draining", 503, 3_600_000, true]);
});

test("it gives up when nothing came in ten attempts, and being offline doesn't count", async () => {
  const { world, line, stream, outcome } = await underWay();
  world.isOnline = false;
  world.answer(...Array(40).fill(new TypeError("network")));
  await line.cut();
  await world.pass(600_000);
  assert.equal(stream.state, "waiting");
  world.isOnline = true;
  const askedOffline = world.asked.length;
  await world.pass(600_000);
  const error = await failure(outcome);
  assert.equal(world.asked.length - askedOffline, 11);
  assert.deepEqual([error.code, error.isRetryable, stream.text], ["gave_up", true, "Ciao "]);
  assert.equal(world.waiting, 0);
});

for (const refused of [400, 403, 404, 413, 422]) {
  test(`a ${refused} is final, and its code is told`, async () => {
    const world = new World().answer(json(refused, { code: "some_code", detail: "Because." }));
    const stream = asking(world);
    let told;
    stream.on("error", ({ data }) => (told = data));
    const error = await failure(stream.start());
    assert.ok(error instanceof SubakError);
    assert.deepEqual([error.code, error.message, error.status, told], ["some_code", "Because.", refused, error]);
    assert.deepEqual([world.asked, world.waiting], [[ASK], 0]);
  });
}

for (const passing of [408, 425, 429, 500, 502, 503, 504]) {
  test(`after a ${passing} it asks again with the same key`, async () => {
    const world = new World().answer(json(passing, {}), new Line());
    asking(world).start();
    await world.pass(500);
    assert.equal(new Set(world.requests.map(({ headers }) => headers["Idempotency-Key"])).size, 1);
    assert.deepEqual(world.asked, [ASK, ASK]);
  });
}

test("a page instead of a stream is no answer", async () => {
  const portal = new Response("<html>Sign in</html>", { headers: { "Content-Type": "text/html" } });
  const world = new World().answer(portal, new Line());
  asking(world).start();
  await world.pass(500);
  assert.deepEqual(world.asked, [ASK, ASK]);
});

test("a line silent for 2.5 heartbeats is given up; comments keep it", async () => {
  const { world, line } = await underWay();
  world.answer(new Line());
  await world.pass(60_000);
  await line.send(": hb\n");
  await world.pass(74_999);
  assert.equal(world.asked.length, 1);
  await world.pass(1);
  assert.ok(line.isAborted);
  assert.deepEqual(world.asked, [ASK, ATTACH]);
});

test("with a quick heartbeat a line that has spoken is given up before a silent one would be", async () => {
  const { world, line } = await underWay({ heartbeat: 200 });
  world.answer(new Line());
  await world.pass(499);
  assert.ok(!line.isAborted);
  await world.pass(501);
  assert.ok(line.isAborted);
});

test("a page that wakes resumes at once, in a pause and on a line that was silent meanwhile", async () => {
  const { world, line } = await underWay();
  await world.wake("visible");
  assert.equal(world.asked.length, 1);
  world.answer(new TypeError("network"));
  world.ms += 40_000; // The device slept: no timer ran.
  await world.wake("visible");
  assert.ok(line.isAborted);
  assert.equal(world.asked.length, 2);
  world.answer(new Line());
  await world.wake("visible");
  assert.equal(world.asked.length, 3);
});

for (const how of ["online", "shown"]) {
  test(`a page that is ${how} again trusts no old line`, async () => {
    const { world, line, outcome } = await underWay();
    const second = new Line();
    world.answer(second);
    await world.wake(how);
    assert.ok(line.isAborted);
    await second.send(token(3, "Bali"), done(4));
    assert.equal((await outcome).text, "Ciao Bali");
  });
}

test("after two silent connects it polls beside the line, and takes the ending from the stream", async () => {
  const held = new Line({ isSilent: true });
  const last = new Line();
  const world = new World().answer(
    new Line({ isSilent: true }),
    held,
    json(201, { id: STREAM_ID }),
    status("Ciao ", 2),
    status("Ciao Bali", 5, { status: "completed", finish_reason: "stop" }),
    last,
  );
  const stream = asking(world);
  const tokens = [];
  stream.on("token", ({ data }) => tokens.push(data));
  const outcome = stream.start();
  await world.pass(19_999);
  assert.deepEqual(world.asked, [ASK, ASK]);
  await world.pass(1);
  assert.deepEqual(world.asked.slice(2), ["POST /v1/streams"]);
  assert.equal(stream.state, "polling");
  await world.pass(4_000);
  assert.deepEqual(tokens, ["Ciao ", "Bali"]);
  assert.deepEqual(world.asked.slice(3), [STATUS, STATUS, ATTACH]);
  const sources = [{ source: "kitas.md", snippet: "", similarity: 1 }];
  await last.send(metadata(), token(2, "Ciao "), event(3, "sources", sources), token(4, "Bali"), done(5));
  const { text, sources: told, metrics } = await outcome;
  assert.deepEqual([text, told, metrics.transport], ["Ciao Bali", sources, "polling"]);
  const keys = world.requests.filter(({ method }) => method === "POST").map(({ headers }) => headers["Idempotency-Key"]);
  assert.deepEqual([keys.length, new Set(keys).size], [3, 1]);
});

test("an answer that only the status can tell ends by what the status says", async () => {
  const world = new World().answer(
    ...[new Line({ isSilent: true }), new Line({ isSilent: true }), json(201, { id: STREAM_ID })],
    status("Ciao Bali", 4, { status: "completed", finish_reason: "length" }),
    ...Array.from({ length: 4 }, () => new Line({ isSilent: true })),
  );
  const outcome = asking(world).start();
  await world.pass(70_000);
  const { text, done: ending } = await outcome;
  assert.deepEqual([text, ending], ["Ciao Bali", { finish_reason: "length" }]);
  assert.equal(world.asked.filter((asked) => asked === ATTACH).length, 4);
});

test("an ending that was polled is fetched over the stream again when that line is cut", async () => {
  const last = new Line();
  const world = new World().answer(
    ...[new Line({ isSilent: true }), new Line({ isSilent: true }), json(201, { id: STREAM_ID })],
    status("Ciao ", 4, { status: "completed", finish_reason: "stop" }),
    new TypeError("network"),
    last,
  );
  const outcome = asking(world).start();
  await world.pass(30_000);
  const sources = [{ source: "kitas.md", snippet: "", similarity: 1 }];
  await last.send(metadata(), token(2, "Ciao "), event(3, "sources", sources), done(4));
  assert.deepEqual((await outcome).sources, sources);
});

test("attempts that failed before don't count against an ending that was polled", async () => {
  const last = new Line();
  const world = new World().answer(
    ...Array(5).fill(new TypeError("network")),
    ...[new Line({ isSilent: true }), new Line({ isSilent: true }), json(201, { id: STREAM_ID })],
    status("", 3, { status: "completed", finish_reason: "stop" }),
    new TypeError("network"),
    last,
  );
  const outcome = asking(world).start();
  await world.pass(40_000);
  const sources = [{ source: "kitas.md", snippet: "", similarity: 1 }];
  await last.send(metadata(), event(2, "sources", sources), done(3));
  assert.deepEqual((await outcome).sources, sources);
});

test("a held line that is lost is followed by one beside which it polls at once", async () => {
  const held = new Line({ isSilent: true });
  const world = new World().answer(new Line({ isSilent: true }), held, json(201, { id: STREAM_ID }), status("Ci", 2));
  const stream = asking(world);
  stream.start().catch(() => undefined);
  await world.pass(22_000);
  assert.equal(stream.text, "Ci");
  world.answer(status("Ciao", 3), new Line({ isSilent: true }));
  await world.wake("online");
  assert.equal(stream.text, "Ciao");
  stream.close();
});

test("a silent connect after a line that spoke is the first one again", async () => {
  const world = new World();
  const line = new Line();
  const stream = asking(world.answer(new Line({ isSilent: true }), line));
  stream.start().catch(() => undefined);
  await world.pass(10_000);
  await line.send(metadata());
  world.answer(new Line({ isSilent: true }), new Line({ isSilent: true }));
  await line.cut();
  await world.pass(10_500);
  assert.deepEqual([stream.state, world.asked.slice(2)], ["connecting", [ATTACH, ATTACH]]);
  stream.close();
});

test("an ending that was polled stands when the stream is gone by then", async () => {
  const world = new World().answer(
    ...[new Line({ isSilent: true }), new Line({ isSilent: true }), json(201, { id: STREAM_ID })],
    status("Ciao Bali", 4, { status: "completed", finish_reason: "stop" }),
    json(410, { code: "cursor_expired" }),
  );
  const outcome = asking(world).start();
  await world.pass(30_000);
  assert.equal((await outcome).text, "Ciao Bali");
});

test("where neither the line nor the status brings anything, it gives up in the end", async () => {
  const world = new World().answer(...Array.from({ length: 30 }, () => new Line({ isSilent: true })));
  const outcome = failure(asking(world, { maxReconnectAttempts: 3 }).start());
  await world.pass(200_000);
  assert.equal((await outcome).code, "gave_up");
  assert.equal(new Set(world.requests.map(({ headers }) => headers["Idempotency-Key"])).size, 1);
  assert.equal(world.waiting, 0);
});

test("a line that speaks after all ends the polling", async () => {
  const held = new Line({ isSilent: true });
  const world = new World().answer(new Line({ isSilent: true }), held, json(201, { id: STREAM_ID }));
  const stream = asking(world);
  const outcome = stream.start();
  await world.pass(20_000);
  held.release();
  await held.send(metadata(), token(2, "Ciao "));
  assert.equal(stream.state, "streaming");
  await world.pass(10_000);
  assert.equal(world.asked.length, 3);
  await held.send(done(3));
  assert.equal((await outcome).text, "Ciao ");
});

test("an answer that is no longer kept is a clean error, and what had come stays", async () => {
  const { world, line, stream, outcome } = await underWay();
  world.answer(json(410, { code: "cursor_expired", detail: "This part of the stream is no longer kept." }));
  await line.cut();
  await world.pass(500);
  const error = await failure(outcome);
  assert.deepEqual([error.code, error.status, stream.text], ["cursor_expired", 410, "Ciao "]);
});

test("a snapshot replaces what had come", async () => {
  const { world, line, stream, outcome } = await underWay();
  const second = new Line();
  const told = [];
  for (const type of ["token", "replace"]) stream.on(type, ({ data }) => told.push([type, data]));
  world.answer(second);
  await line.cut();
  await world.pass(500);
  await second.send(event(7, "snapshot", { text: "Ciao Bali", upto: 7 }), token(8, "!"), done(9));
  assert.equal((await outcome).text, "Ciao Bali!");
  assert.deepEqual(told, [["token", "Bali"], ["token", "!"]]);
});

test("a snapshot that tells another beginning is told whole", async () => {
  const { line, stream } = await underWay();
  let replaced;
  stream.on("replace", ({ data }) => (replaced = data));
  await line.send(event(2, "snapshot", { text: "Salve", upto: 2 }));
  assert.deepEqual([stream.text, replaced], ["Salve", "Salve"]);
});

test("a key whose stream has ended leads to its text", async () => {
  const line = new Line();
  const gone = json(410, { code: "cursor_expired", status_url: `/v1/streams/${STREAM_ID}` });
  const world = new World().answer(new TypeError("network"), gone, line);
  const outcome = asking(world).start();
  await world.pass(500);
  assert.deepEqual(world.asked, [ASK, ASK, ATTACH]);
  await line.send(event(7, "snapshot", { text: "Ciao Bali", upto: 7 }), done(8));
  assert.equal((await outcome).text, "Ciao Bali");
});

test("a 204 to somebody without the ending leads to the status", async () => {
  const { world, line, outcome } = await underWay();
  const ended = { status: "completed", finish_reason: "stop" };
  const nothing = () => new Response(null, { status: 204 });
  world.answer(nothing, () => status("Ciao Bali", 4, ended), nothing, () => status("Ciao Bali", 4, ended));
  await line.cut();
  await world.pass(2_000);
  assert.equal((await outcome).text, "Ciao Bali");
});

test("a line that tells of another stream, or of no envelope, is not believed", async () => {
  for (const wrong of [event(3, "token", "?", STREAM_ID.replace("0", "1")), "data: hello\n\n", "data: [1]\n\n"]) {
    const { world, line, stream } = await underWay();
    world.answer(new Line());
    await line.send(wrong);
    await world.pass(500);
    assert.deepEqual([stream.text, world.asked], ["Ciao ", [ASK, ATTACH]]);
  }
});

test("an error event fails with its code, and keeps the text", async () => {
  const { line, stream, outcome } = await underWay();
  const data = { code: "upstream_rate_limited", message: "Busy.", retryable: true, retryAfter: 7, connectionId: "c_1" };
  await line.send(event(3, "error", data));
  const error = await failure(outcome);
  assert.deepEqual([error.code, error.message, error.isRetryable, error.retryAfterMs], [data.code, "Busy.", true, 7_000]);
  assert.equal(stream.text, "Ciao ");
});

test("an unknown event moves the cursor, and nothing else", async () => {
  const { line, stream } = await underWay();
  await line.send(event(3, "thought", "hm"));
  assert.deepEqual([stream.cursor, stream.text], [`${STREAM_ID}.3`, "Ciao "]);
});

test("credentials are asked for anew for each request, and refreshed once after a 401", async () => {
  let current = "old";
  const world = new World().answer(json(401, {}), new Line(), json(401, {}), json(401, { code: "unauthorized" }));
  const headers = () => ({ Authorization: `Bearer ${current}` });
  const refresh = () => {
    current = current === "old" ? "new" : "newer";
    return true;
  };
  const stream = asking(world, { headers, refresh });
  const outcome = failure(stream.start());
  await settled();
  assert.deepEqual(world.requests.map((request) => request.headers.Authorization), ["Bearer old", "Bearer new"]);
  await world.wake("online");
  const error = await outcome;
  assert.deepEqual([error.code, world.asked.length], ["unauthorized", 4]);
  assert.equal(world.requests[3].headers.Authorization, "Bearer newer");
});

test("stop ends the answer at the gateway, then here, and keeps what had come", async () => {
  const { world, line, stream, outcome } = await underWay();
  world.answer(() => {
    void line.send(done(3, "cancelled"));
    return json(200, { status: "cancelled", last_seq: 3 });
  });
  const stopped = await stream.stop();
  assert.deepEqual([stopped.text, stopped.done], ["Ciao ", { finish_reason: "cancelled" }]);
  assert.equal(await outcome, stopped);
  assert.deepEqual(world.asked.slice(0, 2), [ASK, STOP]);
});

test("a stop that doesn't get through is tried again", async () => {
  const { world, line, stream } = await underWay();
  world.answer(new TypeError("network"), json(503, {}), json(200, {}), new Line());
  const stopped = stream.stop();
  void line;
  await world.pass(3_000);
  assert.deepEqual(world.asked, [ASK, STOP, STOP, STOP, ATTACH]);
  stream.close();
  await failure(stopped);
});

test("a stop before the stream is known stops it as soon as it is", async () => {
  const line = new Line({ isSilent: true });
  const world = new World().answer(line, json(200, {}), new Line());
  const stream = asking(world);
  stream.start().catch(() => undefined);
  stream.stop().catch(() => undefined);
  await settled();
  assert.deepEqual(world.asked, [ASK]);
  line.release();
  await settled();
  assert.ok(world.asked.includes(STOP));
  stream.close();
});

test("a stop before anything was asked asks nothing", async () => {
  const world = new World();
  const stream = asking(world);
  assert.deepEqual((await stream.stop()).done, { finish_reason: "cancelled" });
  await stream.start();
  assert.deepEqual(world.asked, []);
});

test("close leaves, and stops nothing", async () => {
  const { world, line, stream, outcome } = await underWay();
  stream.close();
  assert.equal((await failure(outcome)).code, "closed");
  await settled();
  assert.ok(line.isAborted);
  assert.deepEqual([world.asked, world.waiting], [[ASK], 0]);
});

test("an abort signal leaves too, with its reason", async () => {
  const leaving = new AbortController();
  const { world, line, outcome } = await underWay({ signal: leaving.signal });
  leaving.abort();
  assert.equal((await failure(outcome)).name, "AbortError");
  assert.deepEqual([line.isAborted, world.waiting], [true, 0]);
  const late = asking(world, { signal: AbortSignal.abort() });
  assert.equal((await failure(late.start())).name, "AbortError");
  assert.equal(world.asked.length, 1);
});

test("a for-await loop asks, gets the content in order, and throws the failure", async () => {
  const world = new World();
  const line = new Line();
  const read = [];
  const readAll = async () => {
    for await (const { type, data } of asking(world.answer(line))) read.push(type === "token" ? data : type);
  };
  const loop = failure(readAll());
  await settled();
  await line.send(metadata(), token(2, "Ciao "), token(3, "Bali"));
  await line.send(event(4, "error", { code: "too_long", message: "…" }));
  assert.equal((await loop).code, "too_long");
  assert.deepEqual(read, ["metadata", "Ciao ", "Bali"]);
});

test("a loop that is left leaves the answer; one that begins late begins with the text so far", async () => {
  const { world, stream, outcome } = await underWay();
  for await (const { type, data } of stream) {
    assert.deepEqual([type, data], ["replace", "Ciao "]);
    break;
  }
  assert.equal((await failure(outcome)).code, "closed");
  assert.deepEqual([world.asked, world.waiting], [[ASK], 0]);
});

test("a slow loop holds the line back, and the silence is not the line's", async () => {
  const world = new World();
  const line = new Line();
  const stream = asking(world.answer(line));
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  await settled();
  await line.send(metadata());
  await first;
  const chunk = (from) => Array.from({ length: 600 }, (_, index) => token(from + index, "x")).join("");
  await line.send(chunk(2), chunk(602), chunk(1202));
  assert.equal(stream.text.length, 1_200);
  await world.pass(200_000);
  assert.ok(!line.isAborted);
  for (let read = 0; read < 1_200; read += 1) await loop.next();
  await settled();
  assert.equal(stream.text.length, 1_800);
  await loop.return();
});

test("what a listener throws is nobody else's matter", async () => {
  const { world, line, stream, outcome } = await underWay();
  stream.on("token", () => {
    throw new Error("mine");
  });
  await line.send(token(3, "Bali"), done(4));
  assert.equal((await outcome).text, "Ciao Bali");
  assert.deepEqual(world.uncaught.map(({ message }) => message), ["mine"]);
});

test("a listener that was taken back hears nothing", async () => {
  const { line, stream } = await underWay();
  const off = stream.on("token", () => assert.fail("it heard"));
  off();
  await line.send(token(3, "Bali"));
  assert.equal(stream.text, "Ciao Bali");
});

test("following another tab's stream asks nothing", async () => {
  const line = new Line();
  const world = new World().answer(line);
  const stream = new SubakStream({ streamId: STREAM_ID, surroundings: world.surroundings });
  const outcome = stream.start();
  await settled();
  await line.send(metadata(), token(2, "Ciao "), done(3));
  assert.equal((await outcome).text, "Ciao ");
  assert.deepEqual(world.asked, [ATTACH]);
});

test("a stream needs something to read", () => {
  assert.throws(() => new SubakStream({}), /question or a streamId/);
});

test("an answer that was left is reported once, and ends a pause of its own", async () => {
  const { world, line, stream, outcome } = await underWay({ report: true });
  await line.cut();
  world.answer(new Response(null, { status: 204 }));
  assert.equal(stream.state, "waiting");
  stream.close();
  await failure(outcome);
  await world.pass(60_000);
  assert.deepEqual(world.asked, [ASK, `POST /v1/streams/${STREAM_ID}/report`]);
  assert.equal(world.waiting, 0);
});

test("metrics are reported as numbers, and a refusal of them harms nothing", async () => {
  const { world, line, outcome } = await underWay({ report: true });
  world.answer(new Response(null, { status: 204 }));
  for (const seq of [3, 4, 5]) {
    await world.pass(20);
    await line.send(token(seq, "x"));
  }
  await line.send(done(6));
  await outcome;
  await settled();
  const { method, url, body } = world.requests[1];
  assert.equal(`${method} ${url}`, `POST /v1/streams/${STREAM_ID}/report`);
  const { bytes, ...rest } = body;
  assert.ok(bytes > 300);
  assert.deepEqual(rest, {
    firstTokenMs: 0,
    interTokenP50Ms: 20,
    interTokenP95Ms: 20,
    interTokenP99Ms: 20,
    durationMs: 60,
    tokens: 4,
    reconnects: 0,
    duplicates: 0,
    gaps: 0,
  });
});
