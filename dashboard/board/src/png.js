/** A chart as a PNG file: its title, the names of its lines and its canvas, without the cursor. */

import { element } from "./dom.js";

const MARGIN = 12;
const LINE = 18;

/** Offer the chart as a file. `lines` are [name, colour]; `colours` are those of the theme. */
export function download(title, lines, source, colours) {
  picture(title, lines, source, colours).toBlob((blob) => {
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: `${fileName(title)}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  });
}

/** Return a file name without characters that are special on any system. */
export function fileName(title) {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "chart";
}

function picture(title, lines, source, colours) {
  const scale = source.width / source.clientWidth;
  const head = MARGIN + LINE * (1 + lines.length);
  const made = element("canvas", { width: String(source.width + 2 * MARGIN * scale), height: String(source.height + (head + MARGIN) * scale) });
  const pen = made.getContext("2d");
  pen.fillStyle = colours.background;
  pen.fillRect(0, 0, made.width, made.height);
  pen.drawImage(source, MARGIN * scale, head * scale);
  pen.scale(scale, scale);
  pen.textBaseline = "top";
  pen.fillStyle = colours.text;
  pen.font = `600 14px ${colours.font}`;
  pen.fillText(title, MARGIN, MARGIN);
  pen.font = `12px ${colours.font}`;
  lines.forEach(([name, colour], i) => {
    const y = MARGIN + LINE * (i + 1);
    pen.fillStyle = colour;
    pen.fillRect(MARGIN, y + 5, 12, 3);
    pen.fillStyle = colours.text;
    pen.fillText(name, MARGIN + 18, y);
  });
  return made;
}
