/** Axes and numbers: ticks, their labels, and the conversion from a value to its height.

A logarithmic chart draws log10 of its values on a linear axis; "height" is the drawn value. */

const MINUS = "\u2212";
const GROUPED = new Intl.NumberFormat("en-US", { maximumFractionDigits: 12 });

/** Return a number as text with at most `digits` significant digits: 0.01, 12,000, 2.5e−10. */
export function numberText(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  // Integers keep all their digits.
  const short = Number(value.toPrecision(Math.max(digits, Math.min(Math.ceil(Math.log10(Math.abs(value) + 1)), 17))));
  const size = Math.abs(short);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    return signed(`${Number(mantissa)}e${Number(exponent)}`);
  }
  return signed(size < 1000 ? String(short) : GROUPED.format(short));
}

/** Return a step with separators; steps are integers from 0. */
export function stepText(step) {
  return GROUPED.format(Math.round(step));
}

function signed(text) {
  return text.replaceAll("-", MINUS);
}

/** Return the height of a value; null where it cannot be drawn (log of 0 or less). */
export function heightOf(value, log) {
  if (value === null || value === undefined) return null;
  if (!log) return value;
  return value > 0 ? Math.log10(value) : null;
}

/** Return [low, high] heights with room around them, for any pair including equal ones. */
export function withRoom(low, high, log) {
  if (low > high) return log ? [-1, 1] : [0, 1];
  let room = (high - low) * 0.06;
  if (room === 0) room = log ? 0.3 : Math.abs(high) * 0.1 || 1;
  // A quantity that is never negative has no negative part of its axis.
  const bottom = !log && low >= 0 && low - room < 0 ? 0 : low - room;
  return [bottom, high + room];
}

/** Return the ticks of an axis of steps: integers, at most `count` + 1 of them. */
export function stepTicks(low, high, count) {
  return ticks(low, high, count, 1).map(Math.round);
}

/** Return the heights of the ticks of a value axis. */
export function valueTicks(low, high, count, log) {
  // One tick alone does not tell how far two values are apart.
  if (!log) return [0, 1, 2, 3].map((more) => ticks(low, high, count + more)).find((found, i) => found.length > 1 || i === 3);
  const decades = Math.floor(high) - Math.ceil(low) + 1;
  if (decades >= 3) return ticks(Math.ceil(low), Math.floor(high), count, 1);
  const found = [];
  for (let exponent = Math.floor(low); exponent <= Math.ceil(high); exponent += 1) {
    for (const mantissa of [1, 2, 5]) {
      const height = exponent + Math.log10(mantissa);
      if (height >= low && height <= high) found.push(height);
    }
  }
  if (found.length >= 2) return found;
  return ticks(10 ** low, 10 ** high, count).filter((v) => v > 0).map(Math.log10);
}

/** Return the labels of ticks. */
export function tickTexts(heights, log) {
  const values = log ? heights.map((h) => 10 ** h) : heights;
  const step = values.length > 1 ? Math.abs(values[1] - values[0]) : 0;
  const largest = Math.max(...values.map(Math.abs), 0);
  // Enough digits to tell neighbours apart, and no more.
  const digits = log || !step ? 3 : Math.ceil(Math.log10(largest / step) + 1e-9) + 1;
  return values.map((v) => numberText(step && Math.abs(v) < step / 1e6 && !log ? 0 : v,
    Math.min(Math.max(digits, 2), 12)));
}

function ticks(low, high, count, least = 0) {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(1, count);
  const decade = 10 ** Math.floor(Math.log10(raw));
  const nice = [1, 2, 5, 10].map((m) => m * decade).find((s) => s >= raw * 0.999999);
  const step = Math.max(nice, least);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
