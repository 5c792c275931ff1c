/** The rows, cells and colours of a heat-map: pure functions.

A cell is a float32: NaN is not measured, Infinity is a value that is not finite.
A tree of rows is a list of places [name, sign] and groups [name, sign, rows]; a name is without the
path of the group around it. Groups and places are known by their numbers in depth-first order. */

import { numberText } from "./scale.js";

/** Shades between the ends of the colour scale. */
export const SHADES = 256;
/** A distance above this many usual ones between two columns has no measurement. */
const GAP_FACTOR = 4;

/** Return the float32 values of a base64 text. */
export function decode(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Return the full name of a row from the path of its group and its name within the group. */
export function fullName(path, name) {
  return path && name ? `${path}.${name}` : path || name;
}

/** Return all rows of a tree in depth-first order: { id, group, place, name, full, sign, level,
parents, count }.

`group` is the number of a group, null for a place; `place` the reverse. `parents` are the numbers
of the groups around the row, `count` the places of a group. */
export function flat(tree) {
  const rows = [];
  const counts = { group: 0, place: 0 };
  const walk = (list, path, parents) => {
    for (const [name, sign, inside] of list) {
      const kind = inside ? "group" : "place";
      const number = counts[kind]++;
      const full = fullName(path, name);
      const row = { id: `${kind[0]}${number}`, group: null, place: null, name: name || "(output)", full, sign, level: parents.length, parents };
      row[kind] = number;
      rows.push(row);
      if (!inside) continue;
      const before = counts.place;
      walk(inside, full, [...parents, number]);
      row.count = counts.place - before;
    }
  };
  walk(tree, "", []);
  return rows;
}

/** Return the rows of `flat` that are shown, each group with `open`.

A row is shown if all groups around it are open. With a filter, only the places whose full name
contains all of its words are shown, with the groups around them, which are open. */
export function shownRows(rows, open, filter = "") {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return rows.filter((r) => r.parents.every((g) => open.has(g))).map((r) => stateOf(r, open.has(r.group)));
  const hits = rows.filter((r) => r.place !== null && words.every((w) => r.full.toLowerCase().includes(w)));
  const around = new Set(hits.flatMap((r) => r.parents));
  const ids = new Set(hits.map((r) => r.id));
  return rows.filter((r) => (r.place === null ? around.has(r.group) : ids.has(r.id))).map((r) => stateOf(r, true));
}

function stateOf(row, open) {
  return row.place === null ? { ...row, open } : row;
}

/** Open a group or close it; closing it closes the groups inside it. */
export function toggled(rows, open, group) {
  if (!open.has(group)) return new Set([...open, group]);
  const inside = rows.filter((r) => r.group !== null && r.parents.includes(group)).map((r) => r.group);
  return new Set([...open].filter((g) => g !== group && !inside.includes(g)));
}

/** Return the open groups as a text: "all", "none", or the paths of the innermost ones. */
export function openText(rows, open) {
  const groups = rows.filter((r) => r.group !== null);
  if (open.size === groups.length) return "all";
  if (!open.size) return "none";
  const around = new Set(groups.filter((r) => open.has(r.group)).flatMap((r) => r.parents));
  return groups.filter((r) => open.has(r.group) && !around.has(r.group)).map((r) => r.full).join(",");
}

/** Return the text of a cell of a row; `merged` says what the value of a group is. */
export function valueText(row, value, merged) {
  if (value === undefined) return "…";
  if (Number.isNaN(value)) return "not measured";
  const text = value === Infinity ? "NaN or ∞" : numberText(value);
  return row.place === null ? `${text} (${merged} of ${row.count})` : text;
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

/** Return the height, in rows, of a heat-map of `count` rows on a screen with room for `room`.

Two rows more than the room are shown, too: nobody would scroll for them. Otherwise the last row is
cut in half, which shows that more rows follow. */
export function rowsHigh(count, room) {
  return count <= room + 2 ? Math.max(2, count) : room - 0.5;
}
