// Prints the size of each bundle and of its core, and how fast the parser is. Run by `npm run measure`.
//
// usage: node measure.mjs [--json]
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { createParser } from "eventsource-parser";
import { EventStreamParser } from "./dist/subak-client.js";

const here = dirname(fileURLToPath(import.meta.url));
const EVENTS = 200_000;
const CHUNK_BYTES = 16 * 1024;

const { outputFiles } = await build({
  absWorkingDir: here,
  stdin: { contents: 'export { SubakStream } from "./src/stream.ts";', resolveDir: here, loader: "ts" },
  bundle: true,
  minify: true,
  target: "es2022",
  format: "esm",
  write: false,
});
const sizes = { "core (SubakStream)": sizeOf(outputFiles[0].contents) };
for (const name of ["subak-client.js", "subak-client.classic.js", "bali-zero-stream-client.js"])
  sizes[name] = sizeOf(await readFile(join(here, "dist", name)));

const bytes = new TextEncoder().encode(
  Array.from({ length: EVENTS }, (_, index) => frame(index + 1)).join(""),
);
const speeds = {
  "subak-client": eventsPerSecond(() => {
    const parser = new EventStreamParser();
    let events = 0;
    for (const chunk of chunksOf(bytes)) events += parser.feed(chunk).length;
    return events;
  }),
  "eventsource-parser": eventsPerSecond(() => {
    let events = 0;
    const parser = createParser({ onEvent: () => (events += 1) });
    const decoder = new TextDecoder();
    for (const chunk of chunksOf(bytes)) parser.feed(decoder.decode(chunk, { stream: true }));
    return events;
  }),
};

if (process.argv.includes("--json")) {
  process.stdout.write(`${JSON.stringify({ sizes, speeds })}\n`);
} else {
  for (const [name, { min, gzip }] of Object.entries(sizes))
    console.log(`${name.padEnd(28)} ${kb(min)} KB min ${kb(gzip)} KB min+gzip`);
  for (const [name, speed] of Object.entries(speeds))
    console.log(`${name.padEnd(28)} ${Math.round(speed).toLocaleString("en")} events/s parsed, ${CHUNK_BYTES} byte chunks`);
}

function sizeOf(content) {
  return { min: content.length, gzip: gzipSync(content, { level: 9 }).length };
}

function kb(size) {
  return (size / 1024).toFixed(2).padStart(7);
}

function frame(seq) {
  const data = { type: "token", data: "parola ", sequence: seq, timestamp: 1795359600123 };
  return `id: st_sample0000000000000000000000.${seq}\nevent: message\ndata: ${JSON.stringify(data)}\n\n`;
}

function* chunksOf(content) {
  for (let at = 0; at < content.length; at += CHUNK_BYTES) yield content.subarray(at, at + CHUNK_BYTES);
}

/** The best of five rounds: the others were disturbed. */
function eventsPerSecond(parseAll) {
  let best = Infinity;
  for (let round = 0; round < 5; round += 1) {
    const started = performance.now();
    if (parseAll() !== EVENTS) throw new Error("events were lost");
    best = Math.min(best, performance.now() - started);
  }
  return (EVENTS / best) * 1000;
}
