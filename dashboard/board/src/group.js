/** What all charts of a page share: the cursor, the range of steps, and the smoothing. */

/** The pause of keys: several of them make one range. */
const DEBOUNCE_MS = 250;
/** For this long, data of an older range does not undo the range that the user chose. */
const WAIT_MS = 6000;

export class Group {
  constructor() {
    this.boards = new Set();
    this.full = [0, 1]; // first and newest step
    this.range = null; // [first, last]; null is all steps; last null is the latest step
    this.asked = null;
    this.smoothing = 0;
  }

  /** Yield all charts over steps. */
  *charts() {
    for (const board of this.boards) {
      for (const chart of board.charts.values()) if (chart.overSteps) yield chart;
    }
  }

  /** Return the drawn steps [first, last]: the range, or all steps of the run. */
  extent() {
    const low = this.range?.[0] ?? this.full[0];
    const high = this.range?.[1] ?? this.full[1];
    return low < high ? [low, high] : [low - 0.5, low + 0.5];
  }

  /** Move the cursor of all charts to a step; null removes it. */
  point(step, from = null) {
    for (const chart of this.charts()) if (chart !== from) chart.point(step);
  }

  /** Take the range that came with data, unless the user has chosen another one meanwhile. */
  adopt(range) {
    if (this.asked && !same(range, this.asked.range) && Date.now() < this.asked.until) return;
    this.asked = null;
    const changed = !same(range, this.range);
    this.range = range;
    if (changed) this.rescale();
  }

  /** Show a range that the user chose, and report it after a pause. The end of a drag has none. */
  choose(range, board, pause = 0) {
    if (same(range, this.range)) return;
    this.range = range;
    this.asked = { range, until: Date.now() + WAIT_MS };
    this.rescale();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => board.report("range", { first: range?.[0] ?? null, last: range?.[1] ?? null }), pause);
  }

  /** Zoom around a step by a factor; 0.5 shows half of the steps. */
  zoom(factor, around, board) {
    const [low, high] = this.extent();
    const first = around - (around - low) * factor;
    this.choose(this.within(first, first + (high - low) * factor), board, DEBOUNCE_MS);
  }

  /** Return a valid range for two drawn steps; null where it covers all steps. */
  within(first, last) {
    const [low, high] = this.full;
    const from = Math.max(Math.ceil(low), Math.round(first));
    const to = Math.min(Math.floor(high), Math.round(last));
    if (from <= low && to >= high) return null;
    // The latest step moves with the run; a range that ends there goes on with it.
    return to > from ? [from, to >= high ? null : to] : [from, from + 1];
  }

  rescale() {
    for (const chart of this.charts()) chart.rescale();
    for (const board of this.boards) board.showState();
  }
}

function same(a, b) {
  return (a?.[0] ?? null) === (b?.[0] ?? null) && (a?.[1] ?? null) === (b?.[1] ?? null);
}
