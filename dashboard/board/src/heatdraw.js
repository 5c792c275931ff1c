/** What is drawn on the canvases of a heat-map: names, cells, the cursor and the axis of steps. */

import { hatched } from "./draw.js";
import { shadeOf } from "./heatrows.js";
import { stepText, stepTicks } from "./scale.js";

/** Height of a row in CSS pixels. */
export const ROW = 18;
const INDENT = 14;
/** A cell with a mark of "not finite" inside is at least this wide. */
const MARK_PX = 7;

/** Draw the visible rows, the cursor and the range that is being chosen. */
export function drawRows(map) {
  const pen = penOf(map.canvas);
  const { width, height, nameWidth, colours } = map;
  pen.clearRect(0, 0, width, height);
  const top = map.plotRoot.scrollTop;
  const [first, last] = map.visible();
  pen.save();
  pen.beginPath();
  pen.rect(nameWidth, 0, width - nameWidth, height);
  pen.clip();
  pen.fillStyle = hatch(map, pen);
  pen.fillRect(nameWidth, 0, width - nameWidth, Math.min(height, map.shown.length * ROW - top));
  pen.fillStyle = colours.background;
  for (let i = first; i < last; i += 1) pen.fillRect(nameWidth, (i + 1) * ROW - top - 1, width - nameWidth, 1);
  const edges = edgesOf(map);
  for (let i = first; i < last; i += 1) {
    const cells = map.cellsOf(map.shown[i]);
    if (cells) drawCells(pen, map, cells, edges, i * ROW - top);
    else waiting(pen, map, i * ROW - top);
  }
  cursor(pen, map, top);
  pen.restore();
  for (let i = first; i < last; i += 1) name(pen, map, i, i * ROW - top);
  if (map.grab) {
    pen.fillStyle = colours.line[0];
    pen.globalAlpha = 0.2;
    const from = Math.max(map.grab.from, nameWidth);
    pen.fillRect(from, 0, Math.max(map.grab.to, nameWidth) - from, height);
    pen.globalAlpha = 1;
  }
}

/** Draw the axis of steps below the rows. */
export function drawAxis(map) {
  const pen = penOf(map.axis);
  const { width, colours } = map;
  pen.clearRect(0, 0, width, 24);
  pen.font = `11px ${colours.font}`;
  pen.fillStyle = colours.muted;
  pen.textBaseline = "top";
  const [low, high] = map.board.group.extent();
  for (const step of stepTicks(low, high, Math.max(2, (width - map.nameWidth) / 110))) {
    const x = map.xOf(step);
    pen.fillRect(Math.round(x), 0, 1, 4);
    const text = stepText(step);
    const half = pen.measureText(text).width / 2;
    pen.fillText(text, Math.min(Math.max(x - half, map.nameWidth), width - 2 * half - 1), 8);
  }
  pen.fillText("step", 0, 8);
}

/** Return [column, left, right] of each visible column, in CSS pixels. */
function edgesOf(map) {
  const found = [];
  for (let j = 0; j < map.steps.length; j += 1) {
    const left = map.xOf(map.steps[j] - 0.5);
    const right = map.xOf(map.ends[j] - 0.5);
    // Rounded to whole pixels: the background would be visible between adjacent cells.
    if (right >= map.nameWidth && left <= map.width) found.push([j, Math.round(left), Math.max(Math.round(right), Math.round(left) + 1)]);
  }
  return found;
}

function drawCells(pen, map, cells, edges, y) {
  const bad = [];
  for (const [j, left, right] of edges) {
    const value = cells[j];
    if (Number.isNaN(value)) continue;
    if (value === Infinity) bad.push([left, right]);
    else {
      pen.fillStyle = map.shades[shadeOf(value, map.scale)];
      pen.fillRect(left, y, right - left, ROW - 1);
    }
  }
  // Drawn last and at least 3 pixels wide: one bad cell of many columns stays visible.
  for (const [left, right] of bad) {
    const width = Math.max(right - left, 3);
    pen.fillStyle = map.colours.severity.error;
    pen.fillRect(left, y, width, ROW - 1);
    if (width >= MARK_PX) cross(pen, map, left + width / 2, y + (ROW - 1) / 2);
  }
}

function cross(pen, map, x, y) {
  pen.strokeStyle = map.colours.background;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(x - 3, y - 3);
  pen.lineTo(x + 3, y + 3);
  pen.moveTo(x + 3, y - 3);
  pen.lineTo(x - 3, y + 3);
  pen.stroke();
}

/** Cover the hatch: the cells of this row were not received yet. */
function waiting(pen, map, y) {
  pen.fillStyle = map.colours.background;
  pen.fillRect(map.nameWidth, y, map.width - map.nameWidth, ROW - 1);
}

function cursor(pen, map, top) {
  pen.strokeStyle = pen.fillStyle = map.colours.muted;
  pen.lineWidth = 1;
  if (map.at !== null) pen.fillRect(Math.round(map.xOf(map.at)), 0, 1, map.height);
  if (map.row !== null) pen.strokeRect(map.nameWidth + 0.5, map.row * ROW - top - 0.5, map.width - map.nameWidth - 1, ROW);
}

function name(pen, map, index, y) {
  const row = map.shown[index];
  const { colours, nameWidth } = map;
  const isGroup = row.place === null;
  const chosen = row.place !== null && row.place === map.selected;
  if (chosen || index === map.row) {
    pen.fillStyle = chosen ? `${colours.line[0]}38` : colours.gap;
    pen.fillRect(0, y, nameWidth - 4, ROW - 1);
  }
  pen.font = `${isGroup || chosen ? 600 : 400} 11px ${colours.font}`;
  pen.textBaseline = "middle";
  const middle = y + ROW / 2;
  const start = row.level * INDENT;
  let x = start + 2;
  pen.fillStyle = colours.text;
  if (isGroup) {
    triangle(pen, start + 5, middle, row.open);
    x = start + INDENT;
  }
  if (row.sign) {
    pen.fillStyle = colours.severity[row.sign] ?? colours.muted;
    pen.fillText(SIGNS[row.sign] ?? "●", x, middle);
    x += 14;
  }
  pen.fillStyle = colours.text;
  const count = isGroup ? ` ${row.count}` : "";
  const room = nameWidth - 8 - x - pen.measureText(count).width;
  const text = fitted(pen, row.name, room);
  pen.fillText(text, x, middle);
  if (count) {
    pen.fillStyle = colours.muted;
    pen.fillText(count, x + pen.measureText(text).width + 2, middle);
  }
}

/** One shape for each severity, as in the rest of the dashboard. */
const SIGNS = { error: "✖", warning: "▲", info: "●" };

function triangle(pen, x, y, down) {
  pen.beginPath();
  if (down) {
    pen.moveTo(x - 4, y - 2);
    pen.lineTo(x + 4, y - 2);
    pen.lineTo(x, y + 4);
  } else {
    pen.moveTo(x - 2, y - 4);
    pen.lineTo(x + 4, y);
    pen.lineTo(x - 2, y + 4);
  }
  pen.fill();
}

/** Return the text, with "…" in place of its beginning if it is too wide: names end differently. */
function fitted(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const half = (low + high) >> 1;
    if (pen.measureText(`…${text.slice(half)}`).width <= room) high = half;
    else low = half + 1;
  }
  return `…${text.slice(low)}`;
}

function hatch(map, pen) {
  map.pattern ||= hatched(pen, map.colours.muted, 6, 0.4);
  return map.pattern;
}

function penOf(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return pen;
}

/** Give a canvas a size in CSS pixels. */
export function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
}
