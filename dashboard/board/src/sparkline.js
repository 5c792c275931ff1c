/** A small curve without axes, drawn from one character per point. */

import { spark } from "./runtext.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 96, HEIGHT = 26, MARGIN = 3;

/** Return the curve of a text (as `spark` reads it); `label` is what a screen reader says. */
export function sparkline(text, label) {
  const svg = made("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": label });
  const { paths, end } = spark(text, WIDTH, HEIGHT, MARGIN);
  svg.append(...paths.map((d) => made("path", { d })));
  if (end) svg.append(made("circle", { cx: end[0], cy: end[1], r: 2.4 }));
  return svg;
}

function made(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
