import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { SubakStream } from "../dist/subak-client.js";
import { Line, STREAM_ID, World, done, metadata, settled, token } from "../testing/world.mjs";

const QUESTION = { query: "What is a KITAS?" };

class Storage {
  #items = new Map();
  getItem(name) {
    return this.#items.get(name) ?? null;
  }
  setItem(name, value) {
    this.#items.set(name, value);
  }
  removeItem(name) {
    this.#items.delete(name);
  }
  get size() {
    return this.#items.size;
  }
}

const before = Object.getOwnPropertyDescriptor(globalThis, "sessionStorage");
const keepAs = (value) => Object.defineProperty(globalThis, "sessionStorage", { configurable: true, ...value });

beforeEach(() => keepAs({ value: new Storage() }));
afterEach(() => (before === undefined ? delete globalThis.sessionStorage : keepAs(before)));

async function asked(world) {
  const stream = new SubakStream({ question: QUESTION, rememberAs: "chat", surroundings: world.surroundings });
  stream.start().catch(() => undefined);
  await settled();
  return stream;
}

test("a reloaded page reads its answer from the beginning, and asks nothing", async () => {
  const line = new Line();
  const world = new World().answer(line);
  await asked(world);
  await line.send(metadata(), token(2, "Ciao "));

  const again = new Line();
  const reloaded = new World().answer(again);
  const stream = SubakStream.resume("chat", { surroundings: reloaded.surroundings });
  const outcome = stream.start();
  await settled();
  assert.equal(reloaded.requests[0].headers["Last-Event-ID"], `${STREAM_ID}.0`);
  await again.send(metadata(), token(2, "Ciao "), token(3, "Bali"), done(4));
  assert.equal((await outcome).text, "Ciao Bali");
  assert.deepEqual(reloaded.asked, [`GET /v1/streams/${STREAM_ID}/events?on_gap=snapshot`]);
  assert.equal(sessionStorage.size, 0);
});

test("a page that was reloaded before the stream was known asks with the same key", async () => {
  const world = new World().answer(new Line({ isSilent: true }));
  await asked(world);
  const reloaded = new World().answer(new Line());
  SubakStream.resume("chat", { surroundings: reloaded.surroundings }).start();
  await settled();
  assert.deepEqual(reloaded.requests[0].body, QUESTION);
  assert.equal(reloaded.requests[0].headers["Idempotency-Key"], world.requests[0].headers["Idempotency-Key"]);
});

test("an answer that ended or was left is forgotten, its question never kept longer than needed", async () => {
  const line = new Line();
  const stream = await asked(new World().answer(line));
  await line.send(metadata());
  assert.ok(!sessionStorage.getItem("subak:chat").includes("KITAS"));
  stream.close();
  assert.equal(SubakStream.resume("chat"), null);
});

test("nothing is kept unless it is asked for", async () => {
  const world = new World().answer(new Line());
  new SubakStream({ question: QUESTION, surroundings: world.surroundings }).start();
  await settled();
  assert.equal(sessionStorage.size, 0);
});

test("storage that is forbidden, full or spoilt is as good as none", async () => {
  sessionStorage.setItem("subak:chat", "{");
  assert.equal(SubakStream.resume("chat"), null);
  keepAs({
    get() {
      throw new Error("SecurityError");
    },
  });
  const line = new Line();
  const stream = await asked(new World().answer(line));
  await line.send(metadata(), token(2, "Ciao "));
  assert.equal(stream.text, "Ciao ");
  assert.equal(SubakStream.resume("chat"), null);
});
