/** The rows of a table as arrays of cells: their order, and their text as CSV. */

/** Return the rows sorted by a column, `way` 1 ascending or -1 descending. Numbers come before texts, empty cells and "–" last. */
export function sorted(rows, column, way) {
  const keyed = rows.map((cells) => ({ cells, key: keyOf(textOf(cells[column])) }));
  return keyed.sort(({ key: a }, { key: b }) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return way * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  }).map(({ cells }) => cells);
}

/** Return the rows as CSV with a header (RFC 4180); the curves are left out.

A spreadsheet runs a cell that begins with =, +, - or @ as a formula, and names are those of a training script: such a text gets an apostrophe. */
export function csvOf(columns, rows) {
  const kept = columns.map((_, i) => i).filter((i) => columns[i].kind !== "curve");
  const lines = [kept.map((i) => columns[i].title), ...rows.map((cells) => kept.map((i) => textOf(cells[i])))];
  return lines.map((cells) => `${cells.map(quoted).join(",")}\r\n`).join("");
}

function textOf(cell) {
  return Array.isArray(cell) ? cell[0] : cell;
}

function keyOf(text) {
  if (!text || text === "–") return null;
  const number = Number(plain(text));
  return Number.isNaN(number) ? text : number;
}

/** Return the text of a number as a program reads it: without separators and with a hyphen as sign. */
function plain(text) {
  return text.replaceAll("\u2212", "-").replace(/^-?[\d,]+/, (digits) => digits.replaceAll(",", ""));
}

function quoted(text) {
  const number = plain(text);
  if (text !== "" && !Number.isNaN(Number(number))) return number;
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}
