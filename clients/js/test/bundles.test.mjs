import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import vm from "node:vm";

const DIST = new URL("../dist/", import.meta.url);
const here = (name) => fileURLToPath(new URL(name, DIST));

test("the core has at most 6 KB, minified and compressed", () => {
  const { sizes } = JSON.parse(execFileSync(process.execPath, [here("../measure.mjs"), "--json"], { encoding: "utf8" }));
  assert.ok(sizes["core (SubakStream)"].gzip <= 6 * 1024, `${sizes["core (SubakStream)"].gzip} bytes`);
});

test("classic scripts make their globals, and no other", () => {
  for (const [file, name, use] of [
    ["bali-zero-stream-client.js", "BaliZeroStreamClient", "typeof BaliZeroStreamClient.prototype.stream"],
    ["subak-client.classic.js", "Subak", "typeof Subak.SubakStream.prototype.start"],
  ]) {
    const page = vm.createContext({});
    vm.runInContext(readFileSync(here(file), "utf8"), page);
    assert.equal(vm.runInContext(use, page), "function");
    assert.ok(Object.keys(page).every((made) => [name, "BaliZero"].includes(made)), Object.keys(page).join());
  }
});

test("the classic script can be required", () => {
  const module = { exports: {} };
  new Function("module", readFileSync(here("bali-zero-stream-client.js"), "utf8"))(module);
  assert.equal(typeof module.exports.prototype.stream, "function");
});

test("an application's code agrees with the types", () => {
  const strict = ["--strict", "--noEmit", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"];
  const lib = ["--lib", "es2022,dom", "--types", "", "--ignoreConfig", here("../testing/consumer.ts")];
  execFileSync(process.execPath, [here("../node_modules/typescript/bin/tsc"), ...strict, ...lib], { encoding: "utf8" });
});

test("the package names its types, and depends on nothing", () => {
  const made = createRequire(import.meta.url)("../package.json");
  assert.equal(made.dependencies, undefined);
  assert.match(readFileSync(here("index.d.ts"), "utf8"), /BaliZeroStreamClient/);
});
