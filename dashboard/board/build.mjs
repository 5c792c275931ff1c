/** Bundle the board into one file: `node build.mjs OUTPUT STAMP`. build.py calls it. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const [output, stamp] = process.argv.slice(2);

await build({
  entryPoints: [here("src/index.js")],
  outfile: output,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  loader: { ".css": "text" },
  // The licence of uPlot requires that its text is in every copy.
  banner: { js: `/* ${stamp} */\n/*! uPlot\n${readFileSync(here("node_modules/uplot/LICENSE"), "utf8")}*/` },
  logLevel: "warning",
});
