/** The rows, cells and colours of a heat-map: pure functions.

A cell is a float32: NaN is not measured, Infinity is a value that is not finite.
`blocks` is [{ name, sign, places: [[name within the block, sign], …] }]; a place is known by its
number, counted over all blocks. */

const OPEN_MAX = 60;
/** Shades between the ends of the colour scale. */
export const SHADES = 256;
/** A distance above this many usual ones between two columns has no measurement. */
const GAP_FACTOR = 4;

/** Return the float32 values of a base64 text. */
export function decode(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Return the full name of a place from its block's name and its name within the block. */
export function fullName(block, name) {
  return block && name ? `${block}.${name}` : block || name;
}

/** Return the blocks that are open at first: all, or those of the place `here`. */
export function openAtFirst(blocks, here = null) {
  const count = blocks.reduce((sum, b) => sum + b.places.length, 0);
  const open = new Set(count <= OPEN_MAX ? blocks.keys() : []);
  let first = 0;
  blocks.forEach((b, i) => {
    if (here !== null && here >= first && here < first + b.places.length) open.add(i);
    first += b.places.length;
  });
  return open;
}

/** Return the rows that are shown: { block, place, name, full, sign, count, open }.

`place` is null for the row of a block. A block with one place has only the row of its place. With
a filter, only places whose full name contains all of its words are shown, and all of them. */
export function shownRows(blocks, open, filter = "") {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  let first = 0;
  blocks.forEach((b, block) => {
    const places = b.places
      .map(([name, sign], i) => ({ block, place: first + i, name, full: fullName(b.name, name), sign }))
      .filter((p) => words.every((w) => p.full.toLowerCase().includes(w)));
    first += b.places.length;
    if (!places.length) return;
    if (b.places.length === 1) {
      rows.push({ ...places[0], name: places[0].full });
      return;
    }
    const isOpen = words.length > 0 || open.has(block);
    rows.push({ block, place: null, name: b.name || "(root)", full: b.name || "(root)", sign: b.sign, count: b.places.length, open: isOpen });
    if (isOpen) rows.push(...places.map((p) => ({ ...p, inside: true })));
  });
  return rows;
}

/** Return the scale of the colours: { kind, low, high } with heights (log10 on a log scale).

`range` is [smallest, largest, smallest above 0], each null without such a value. */
export function scaleOf([low, high, positive], log) {
  if (low === null) return { kind: "linear", low: 0, high: 1 };
  if (low < 0) {
    const reach = Math.max(-low, Math.abs(high));
    return { kind: "diverging", low: -reach, high: reach };
  }
  if (log && positive !== null) return wide("log", Math.log10(positive), Math.log10(high));
  return wide("linear", low, high);
}

function wide(kind, low, high) {
  return high > low ? { kind, low, high } : { kind, low: low - 0.5, high: high + 0.5 };
}

/** Return the shade of a finite value, 0 to SHADES − 1; 0 on a log scale has the lowest shade. */
export function shadeOf(value, scale) {
  const height = scale.kind === "log" ? Math.log10(value) : value;
  const share = (height - scale.low) / (scale.high - scale.low);
  return Math.round(Math.min(Math.max(Number.isNaN(share) ? 0 : share, 0), 1) * (SHADES - 1));
}

/** Return the values at the start, the middle and the end of the colour key. */
export function keyValues(scale) {
  const middle = (scale.low + scale.high) / 2;
  return [scale.low, middle, scale.high].map((h) => (scale.kind === "log" ? 10 ** h : h));
}

/** Return the colours of all shades as "rgb(…)" from a few colours "#rrggbb". */
export function ramp(colours) {
  const parts = colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  return Array.from({ length: SHADES }, (_, shade) => {
    const at = (shade / (SHADES - 1)) * (parts.length - 1);
    const i = Math.min(Math.floor(at), parts.length - 2);
    const mixed = parts[i].map((v, k) => Math.round(v + (parts[i + 1][k] - v) * (at - i)));
    return `rgb(${mixed.join(",")})`;
  });
}

/** Return the end of each column on the axis of steps: the next column, or a gap before it. */
export function ends(steps, last) {
  const distances = steps.slice(1).map((s, i) => s - last[i]).sort((a, b) => a - b);
  const usual = distances.length ? distances[distances.length >> 1] : 1;
  return last.map((l, i) => {
    const next = steps[i + 1] ?? Infinity;
    return next - l <= GAP_FACTOR * usual ? next : l + usual;
  });
}

/** Return the index of the column that contains a step or is nearest to it; -1 without columns. */
export function columnAt(steps, x) {
  let [low, high] = [0, steps.length - 1];
  if (high < 0) return -1;
  while (low < high) {
    const half = (low + high + 1) >> 1;
    if (steps[half] <= x + 0.5) low = half;
    else high = half - 1;
  }
  return low;
}
