import assert from "node:assert/strict";
import { test } from "node:test";
import { BaliZeroStreamClient, ChatFallback, SubakStream } from "../dist/subak-client.js";
import { FLAG_OFF, Line, STREAM_ID, World, done, event, json, metadata, settled, token } from "../testing/world.mjs";

const ASK = "POST /api/v2/bali-zero/chat-stream";
const CHAT = "POST /api/v2/bali-zero/chat";
const STOP = `POST /v1/streams/${STREAM_ID}/stop`;
const QUESTION = { query: "What is a KITAS?", user_role: "member" };
const SOURCES = [{ source: "kitas.md", snippet: "", similarity: 0.8 }];
const WHOLE = () => json(200, { success: true, response: "A permit.", sources: SOURCES, model_used: "x", ai_used: "x" });

const failure = (promise) => promise.then(() => assert.fail("it didn't fail"), (error) => error);

/** A client that keeps what its callbacks were told. */
function client(world, options = {}) {
  const told = [];
  const keep = (name) => (first) => told.push([name, first]);
  const made = new BaliZeroStreamClient({
    surroundings: world.surroundings,
    onToken: keep("token"),
    onMetadata: keep("metadata"),
    onSources: keep("sources"),
    onConnect: keep("connect"),
    onComplete: keep("complete"),
    onError: keep("error"),
    ...options,
  });
  return { made, told };
}

for (const [name, refusal] of [
  ["403 feature_flag_disabled", FLAG_OFF],
  ["404", () => json(404, {})],
  ["405", () => json(405, {})],
]) {
  test(`after a ${name} the whole answer comes by one POST /chat`, async () => {
    const world = new World().answer(refusal(), WHOLE());
    const { made, told } = client(world);
    const { finalData, metrics } = await made.stream(QUESTION);
    assert.deepEqual(finalData, { finish_reason: "stop", transport: "chat" });
    assert.deepEqual([metrics.transport, metrics.tokensReceived], ["chat", 1]);
    assert.deepEqual(told.map(([what]) => what), ["token", "sources", "complete"]);
    assert.deepEqual([told[0][1], told[1][1], made.current.text], ["A permit.", SOURCES, "A permit."]);
    assert.deepEqual(world.asked, [ASK, CHAT]);
    assert.deepEqual(world.requests[1].body, QUESTION);
    assert.equal(world.waiting, 0);
  });
}

test("it remembers for five minutes that there is no streaming here", async () => {
  const world = new World().answer(FLAG_OFF(), WHOLE(), WHOLE(), FLAG_OFF(), WHOLE());
  const { made } = client(world);
  await made.stream(QUESTION);
  await world.pass(299_999);
  await made.stream(QUESTION);
  await world.pass(1);
  await made.stream(QUESTION);
  assert.deepEqual(world.asked, [ASK, CHAT, CHAT, ASK, CHAT]);
});

for (const [name, refusal] of [
  ["another 403", json(403, { code: "forbidden" })],
  ["a 401", json(401, {})],
  ["a 422", json(422, {})],
]) {
  test(`${name} is no reason to ask elsewhere`, async () => {
    const world = new World().answer(refusal);
    const { made, told } = client(world);
    await failure(made.stream(QUESTION));
    assert.deepEqual(world.asked, [ASK]);
    assert.deepEqual(told.map(([what]) => what), ["error"]);
  });
}

for (const [name, ...first] of [
  ["a question that was cut", () => new TypeError("network")],
  ["a bad gateway", () => json(502, {})],
  ["a page instead of a stream", () => new Response("<html>")],
]) {
  test(`after ${name} a stream may exist, so that a refusal asks nowhere else`, async () => {
    const world = new World().answer(...first.map((make) => make()), FLAG_OFF());
    const { made } = client(world);
    const error = failure(made.stream(QUESTION));
    await world.pass(500);
    assert.equal((await error).code, "feature_flag_disabled");
    assert.deepEqual(world.asked, [ASK, ASK]);
  });
}

test("a 429 made no stream: a refusal after it may ask elsewhere", async () => {
  const world = new World().answer(json(429, {}, { "Retry-After": "1" }), FLAG_OFF(), WHOLE());
  const { made } = client(world);
  const result = made.stream(QUESTION);
  await world.pass(1_000);
  assert.equal((await result).finalData.transport, "chat");
});

test("a stream that is gone is not asked for elsewhere", async () => {
  const world = new World();
  const line = new Line();
  const { made } = client(world.answer(line, json(404, { code: "stream_not_found" })));
  const error = failure(made.stream(QUESTION));
  await settled();
  await line.send(metadata());
  await line.cut();
  await world.pass(500);
  assert.equal((await error).code, "stream_not_found");
  assert.ok(!world.asked.includes(CHAT));
});

for (const [name, answer] of [
  ["is refused", json(500, { error: "…" })],
  ["is no answer", json(200, { success: true })],
  ["is lost", new TypeError("network")],
]) {
  test(`a whole answer that ${name} is not asked for again`, async () => {
    const world = new World().answer(FLAG_OFF(), answer);
    const { made } = client(world);
    const error = await failure(made.stream(QUESTION));
    assert.equal(error.code, "chat_failed");
    await world.pass(60_000);
    assert.deepEqual(world.asked, [ASK, CHAT]);
  });
}

test("a whole answer takes its time: nothing looks after the line meanwhile", async () => {
  let answer;
  const late = new Promise((resolve) => (answer = resolve));
  const world = new World().answer(FLAG_OFF(), () => late);
  const { made } = client(world);
  const result = made.stream(QUESTION);
  await world.pass(300_000);
  answer(WHOLE());
  assert.equal((await result).finalData.transport, "chat");
  assert.deepEqual(world.asked, [ASK, CHAT]);
});

test("it can be switched off, and a plain stream has none", async () => {
  const { made } = client(new World().answer(FLAG_OFF()), { fallback: false });
  assert.equal((await failure(made.stream(QUESTION))).code, "feature_flag_disabled");
  const world = new World().answer(FLAG_OFF(), FLAG_OFF(), WHOLE());
  const options = { question: QUESTION, surroundings: world.surroundings };
  assert.equal((await failure(new SubakStream(options).start())).code, "feature_flag_disabled");
  const outcome = await new SubakStream({ ...options, fallback: new ChatFallback() }).start();
  assert.equal(outcome.metrics.transport, "chat");
});

test("a stop while the whole answer is awaited ends the wait", async () => {
  const world = new World().answer(FLAG_OFF(), () => new Promise(() => undefined));
  const { made, told } = client(world);
  const error = failure(made.stream(QUESTION));
  await settled();
  made.stop();
  assert.equal((await error).code, "stopped");
  assert.deepEqual(told, []);
  assert.equal(world.waiting, 0);
});

test("a streamed answer tells all callbacks what the first client told", async () => {
  const world = new World();
  const line = new Line();
  const abouts = [];
  const { made, told } = client(world.answer(line), { onToken: (text, about) => abouts.push([text, about]) });
  const result = made.stream(QUESTION);
  await settled();
  assert.deepEqual([made.getMetrics().isStreaming, made.getMetrics().isConnected], [true, false]);
  await line.send(metadata(), token(2, "Ciao "));
  assert.ok(made.getMetrics().isConnected);
  await world.pass(20);
  await line.send(token(3, "Bali"), event(4, "sources", SOURCES), done(5));
  const { metrics, finalData } = await result;
  assert.deepEqual(finalData, { finish_reason: "stop" });
  assert.deepEqual(told.map(([what]) => what), ["connect", "metadata", "sources", "complete"]);
  assert.deepEqual(told[0][1], { connectionId: "c_1" });
  assert.equal(told[1][1].streamId, STREAM_ID);
  assert.deepEqual(abouts.map(([text, { sequence }]) => [text, sequence]), [["Ciao ", 2], ["Bali", 3]]);
  assert.equal(abouts[1][1].metrics.tokensReceived, 2);
  const { lastTokenTime, bytesReceived, ...rest } = metrics;
  assert.ok(lastTokenTime > 0 && bytesReceived > 0);
  assert.deepEqual(rest, {
    firstTokenLatency: 0,
    tokensReceived: 2,
    reconnectCount: 0,
    isConnected: false,
    isStreaming: false,
    reconnectAttempts: 0,
    duration: 20,
    transport: "stream",
  });
});

test("stop rejects at once, tells the gateway, and keeps the text", async () => {
  const world = new World();
  const line = new Line();
  const { made, told } = client(world.answer(line, json(200, {}), new Line()));
  const error = failure(made.stream(QUESTION));
  await settled();
  await line.send(metadata(), token(2, "Ciao "));
  made.stop();
  made.stop();
  assert.equal((await error).code, "stopped");
  await line.send(token(3, "Bali"));
  assert.deepEqual([world.asked.slice(0, 2), made.getMetrics().isStreaming], [[ASK, STOP], false]);
  assert.deepEqual(told.map(([what]) => what), ["connect", "metadata", "token"]);
});

test("a new question stops the one before it, whose late tokens nobody hears", async () => {
  const world = new World();
  const [first, second] = [new Line(), new Line({ headers: {} })];
  const { made, told } = client(world.answer(first));
  const error = failure(made.stream(QUESTION));
  await settled();
  await first.send(metadata(), token(2, "old"));
  world.answer(json(200, {}), second);
  const result = made.stream({ query: "And an ITAS?" });
  assert.equal((await error).code, "stopped");
  await first.send(token(3, "older"));
  await second.send(metadata(), token(2, "new"), done(3));
  await result;
  assert.deepEqual(told.filter(([what]) => what === "token").map(([, text]) => text), ["old", "new"]);
});

test("an error event tells its data", async () => {
  const world = new World();
  const line = new Line();
  const errors = [];
  const { made } = client(world.answer(line), { onError: (error, data) => errors.push([error.message, data.code]) });
  const error = failure(made.stream(QUESTION));
  await settled();
  await line.send(metadata(), event(2, "error", { code: "upstream_error", message: "It failed.", retryable: true }));
  await error;
  assert.deepEqual(errors, [["It failed.", "upstream_error"]]);
});

test("the base URL is an origin or the route itself", async () => {
  for (const [baseUrl, url] of [
    ["https://gw.example", "https://gw.example/api/v2/bali-zero/chat-stream"],
    ["https://gw.example/below/", "https://gw.example/below/api/v2/bali-zero/chat-stream"],
    ["/api/v2/bali-zero/chat-stream", "/api/v2/bali-zero/chat-stream"],
    ["https://gw.example/v1/streams", "https://gw.example/v1/streams"],
    [undefined, "/api/v2/bali-zero/chat-stream"],
  ]) {
    const world = new World().answer(json(422, {}));
    await failure(client(world, { baseUrl }).made.stream(QUESTION));
    assert.equal(world.requests[0].url, url);
  }
});

test("the other routes stand beside the one that takes the question, below the same path", async () => {
  const line = new Line();
  const world = new World().answer(line, new Line());
  client(world, { baseUrl: "https://gw.example/below" }).made.stream(QUESTION).catch(() => undefined);
  await settled();
  await line.cut();
  await world.pass(500);
  assert.equal(world.asked[1], `GET https://gw.example/below/v1/streams/${STREAM_ID}/events?on_gap=snapshot`);
});

test("a question needs a query", async () => {
  const error = await failure(client(new World()).made.stream({ query: "" }));
  assert.match(error.message, /query/);
});
