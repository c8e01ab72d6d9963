// Builds `dist/`, and the copies that the gateway serves: src/subak/web/static/ of the tree. They are committed, so that
// running the gateway needs no Node; a test builds them again and compares.
//
// usage: node build.mjs [folder for the copies]
import { copyFile, mkdir, rm } from "node:fs/promises";
import { execFile } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");
const served = process.argv[2] ?? join(here, "..", "..", "src", "subak", "web", "static");
const banner = { js: "/* subak-client: SPDX-License-Identifier: Apache-2.0 */" };
const common = { absWorkingDir: here, bundle: true, minify: true, target: "es2022", charset: "utf8", banner };

await rm(dist, { recursive: true, force: true });
await Promise.all([
  build({ ...common, entryPoints: ["src/index.ts"], format: "esm", outfile: "dist/subak-client.js" }),
  build({
    ...common,
    entryPoints: ["src/index.ts"],
    format: "iife",
    globalName: "Subak",
    outfile: "dist/subak-client.classic.js",
  }),
  build({
    ...common,
    entryPoints: ["src/bali-zero.ts"],
    format: "iife",
    globalName: "BaliZero",
    footer: {
      js: "var { BaliZeroStreamClient } = BaliZero;\nif (typeof module === 'object') module.exports = BaliZeroStreamClient;",
    },
    outfile: "dist/bali-zero-stream-client.js",
  }),
  promisify(execFile)(process.execPath, [join(here, "node_modules", "typescript", "bin", "tsc")], { cwd: here }),
]);
for (const name of ["LICENSE", "NOTICE"]) await copyFile(join(here, "..", "..", name), join(dist, name));
await mkdir(served, { recursive: true });
for (const name of ["subak-client.js", "subak-client.classic.js", "bali-zero-stream-client.js"])
  await copyFile(join(dist, name), join(served, name));
