/** A heat-map over steps: rows of modules and tensors, of which only the visible ones are drawn.

It has the cursor and the range of the charts. The cells of a row are requested from Python when the
row becomes visible. */

import { element } from "./dom.js";
import { drawAxis, drawRows, ROW, sized } from "./heatdraw.js";
import { columnAt, decode, ends, flat, keyValues, openText, ramp, rowsHigh, scaleOf, shownRows, toggled, valueText } from "./heatrows.js";
import { numberText, stepText } from "./scale.js";

/** Of the height of the window, so that the axis of steps is visible below the rows. */
const HEIGHT_MAX = 0.48;
const ASK_MS = 120;
const DRAG_PX = 4;
/** Rows above and below the visible ones that are requested with them. */
const AHEAD = 8;

export class HeatMap {
  constructor(board, sent) {
    this.board = board;
    this.key = sent.key;
    this.colours = board.colours;
    this.overSteps = true;
    this.series = []; // the board smooths and counts the lines of charts
    this.chosenLog = null;
    this.at = null; // step of the cursor
    this.row = null; // index of the row of the cursor
    this.selected = null; // number of the selected place
    this.open = null;
    this.title = element("h5", {});
    this.values = element("span", { class: "values" });
    this.scaleButton = element("button", { type: "button", class: "scale", onclick: () => this.toggleLog() });
    this.filter = element("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter rows by name", oninput: () => this.arrange() });
    this.openButton = element("button", { type: "button", class: "blocks", onclick: () => this.toggleAll() });
    this.count = element("span", { class: "where count" });
    this.bar = element("span", { class: "bar", "aria-hidden": "true" });
    this.ticks = element("span", { class: "ticks" });
    this.badKey = element("i", { class: "bad", "aria-hidden": "true" });
    this.legend = element("div", { class: "key" }, element("span", { class: "ramp" }, this.bar, this.ticks),
      element("span", {}, this.badKey, "NaN or ∞"), element("span", {}, element("i", { class: "none", "aria-hidden": "true" }), "not measured"));
    this.canvas = element("canvas", {});
    this.rest = element("div", {});
    this.plotRoot = element("div", {
      class: "plot heat", tabindex: "0", role: "img", onkeydown: (e) => this.pressed(e), onscroll: () => this.scrolled(),
      onmousemove: (e) => this.moved(e), onmouseleave: () => this.left(), onmousedown: (e) => this.grabbed(e), ondblclick: () => this.board.group.choose(null, this.board),
    }, this.canvas, this.rest);
    this.axis = element("canvas", { class: "axis" });
    this.root = element("section", { class: "chart wide", "data-key": this.key },
      element("header", {}, this.title, this.values, this.scaleButton),
      element("div", { class: "heat-tools" }, this.filter, this.openButton, this.count, this.legend), this.plotRoot, this.axis);
    this.release = (e) => this.released(e);
    window.addEventListener("mouseup", this.release);
    this.take(sent);
  }

  /** Replace everything by a full description; open groups and the filter stay for the same rows. */
  take(sent) {
    const names = sent.title + JSON.stringify(sent.rows, (key, value) => (Array.isArray(value) && typeof value[0] === "string" ? [value[0], value[2]] : value));
    this.sent = sent;
    this.title.textContent = sent.title;
    this.tree = flat(sent.rows);
    this.steps = [];
    this.last = [];
    this.rows = new Map();
    this.range = sent.extremes;
    if (names !== this.names) {
      this.names = names;
      this.open = new Set(sent.open);
      this.filter.value = sent.filter;
      this.given = sent.given;
      this.said = this.state();
      this.selected = sent.here;
      this.row = null;
      this.unseen = sent.here !== null;
    }
    this.append(sent.points);
    this.build();
  }

  describe() {} // Marks and limits are for charts.

  /** Take new columns of the known rows, or all columns of more rows. */
  grow(points) {
    if (points.steps) this.append(points);
    else this.put(points, this.steps.length);
    if (points.extremes && points.extremes.some((v, i) => v !== this.range[i])) {
      this.range = points.extremes;
      this.build();
    }
    this.rescale();
  }

  append({ steps, last, ids, cells }) {
    const known = this.rows;
    const fresh = this.steps.length === 0;
    this.rows = new Map();
    const more = new Map();
    this.each(ids, cells, steps.length, (id, part) => more.set(id, part));
    for (const [id, part] of more) {
      if (fresh) this.rows.set(id, part);
      else if (known.has(id)) {
        const joined = new Float32Array(this.steps.length + steps.length);
        joined.set(known.get(id));
        joined.set(part, this.steps.length);
        this.rows.set(id, joined);
      }
    }
    this.steps.push(...steps);
    this.last.push(...last);
    this.ends = ends(this.steps, this.last);
  }

  put({ ids, cells }, width) {
    this.each(ids, cells, width, (id, part) => this.rows.set(id, part));
  }

  each(ids, cells, width, use) {
    const values = decode(cells);
    ids.forEach((id, i) => use(id, values.subarray(i * width, (i + 1) * width)));
  }

  get log() {
    return this.chosenLog ?? this.sent.log;
  }

  toggleLog() {
    this.chosenLog = !this.log;
    this.build();
  }

  /** Draw anew with the colours of another theme. */
  recolour(colours) {
    this.colours = colours;
    this.build();
  }

  build() {
    this.scale = scaleOf(this.range, this.log);
    const { sequential, diverging, severity } = this.colours;
    const stops = this.scale.kind === "diverging" ? diverging : sequential;
    this.shades = ramp(stops);
    this.bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    this.badKey.style.background = severity.error;
    this.ticks.replaceChildren(...keyValues(this.scale).map((v) => element("span", {}, numberText(v, 3))));
    this.scaleButton.hidden = this.scale.kind === "diverging";
    this.scaleButton.textContent = this.log ? "log" : "linear";
    this.scaleButton.title = `The colour scale is ${this.log ? "logarithmic" : "linear"}; click to change it`;
    this.scaleButton.setAttribute("aria-label", `${this.sent.title}: ${this.scaleButton.title}`);
    this.pattern = null;
    this.arrange();
  }

  /** Compute the shown rows, after a change of the filter or of the open groups. */
  arrange() {
    const before = this.shown?.[this.row];
    this.shown = shownRows(this.tree, this.open, this.filter.value);
    this.row = before ? this.shown.findIndex((r) => r.id === before.id) : null;
    if (this.row === -1) this.row = null;
    const every = this.tree.filter((r) => r.place !== null).length;
    const found = this.filter.value.trim() ? this.shown.filter((r) => r.place !== null).length : every;
    this.count.textContent = found === every ? `${stepText(every)} ${this.sent.unit}` : `${stepText(found)} of ${stepText(every)} ${this.sent.unit}`;
    this.openButton.textContent = this.isAllOpen ? "Close all" : "Open all";
    this.openButton.hidden = this.tree.every((r) => r.place !== null);
    this.resize();
    if (this.unseen && this.root.isConnected) {
      this.unseen = false;
      this.reveal(this.shown.findIndex((r) => r.place === this.selected));
    }
  }

  get isAllOpen() {
    return openText(this.tree, this.open) === "all";
  }

  toggleAll() {
    this.open = this.isAllOpen ? new Set() : new Set(this.tree.filter((r) => r.group !== null).map((r) => r.group));
    this.arrange();
  }

  resize() {
    this.height = rowsHigh(this.shown.length, Math.max(Math.round(window.innerHeight * HEIGHT_MAX / ROW), 12)) * ROW;
    this.plotRoot.style.height = `${this.height}px`;
    this.rest.style.height = `${Math.max(0, this.shown.length * ROW - this.height)}px`;
    const width = this.plotRoot.clientWidth;
    if (width > 0) {
      this.width = width;
      this.nameWidth = Math.min(Math.max(width * 0.24, 110), 280);
      sized(this.canvas, width, this.height);
      sized(this.axis, width, 24);
    }
    this.rescale();
    this.ask();
  }

  rescale() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
    this.say();
  }

  draw() {
    if (!this.width || !this.root.isConnected) return;
    drawRows(this);
    drawAxis(this);
  }

  /** Return the x of a step in CSS pixels, and the step at an x. */
  xOf(step) {
    const [low, high] = this.board.group.extent();
    return this.nameWidth + ((step - low) / (high - low)) * (this.width - this.nameWidth);
  }

  stepAt(x) {
    const [low, high] = this.board.group.extent();
    return low + ((x - this.nameWidth) / (this.width - this.nameWidth)) * (high - low);
  }

  /** Return the first and last index of the visible rows. */
  visible(ahead = 0) {
    const first = Math.floor(this.plotRoot.scrollTop / ROW) - ahead;
    const last = Math.ceil((this.plotRoot.scrollTop + this.height) / ROW) + ahead;
    return [Math.max(0, first), Math.min(this.shown.length, last)];
  }

  scrolled() {
    this.rescale();
    this.ask();
  }

  /** Return what the URL has of this chart: the open groups and the filter. */
  state() {
    return { open: openText(this.tree, this.open), filter: this.filter.value.trim() };
  }

  /** After a pause, request the cells of the visible rows, and tell Python of opened groups. */
  ask() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!this.root.isConnected) return;
      const rows = (ahead) => this.shown.slice(...this.visible(ahead)).map((r) => r.id);
      const state = this.state();
      const changed = state.open !== this.said.open || state.filter !== this.said.filter;
      if (!changed && rows(0).every((id) => this.rows.has(id))) return;
      this.given ||= changed; // the URL has no text of the groups that are open at first
      this.said = state;
      this.board.report("rows", { chart: this.key, rows: rows(AHEAD), open: this.given ? state.open : null, filter: state.filter });
    }, ASK_MS);
  }

  cellsOf(row) {
    return this.rows.get(row.id);
  }

  moved(event) {
    const { x, y } = this.where(event);
    if (this.grab) {
      this.grab.to = x;
      this.rescale();
    }
    this.row = this.rowAt(y);
    this.pointAt(x > this.nameWidth ? this.stepAt(x) : null);
  }

  left() {
    this.row = null;
    this.pointAt(null);
  }

  where(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  rowAt(y) {
    const row = Math.floor((y + this.plotRoot.scrollTop) / ROW);
    return row >= 0 && row < this.shown.length ? row : null;
  }

  grabbed(event) {
    if (event.button !== 0 || event.offsetX > this.width) return;
    const { x, y } = this.where(event);
    this.grab = { from: x, to: x, row: this.rowAt(y) };
  }

  released() {
    const grab = this.grab;
    this.grab = null;
    if (!grab) return;
    if (Math.abs(grab.to - grab.from) < DRAG_PX) this.clicked(grab.row, grab.from > this.nameWidth ? this.stepAt(grab.from) : null);
    else if (grab.from > this.nameWidth) {
      const { group } = this.board;
      const [first, last] = [grab.from, Math.max(grab.to, this.nameWidth)].sort((a, b) => a - b);
      group.choose(group.within(this.stepAt(first), this.stepAt(last)), this.board);
    }
    this.rescale();
  }

  /** Open or close a group, or select a place. */
  clicked(index, step) {
    const row = this.shown[index];
    if (!row) return;
    if (row.place === null) {
      this.open = toggled(this.tree, this.open, row.group);
      this.arrange();
      return;
    }
    this.selected = row.place;
    const column = columnAt(this.steps, step ?? Infinity);
    this.board.report("click", { chart: this.key, series: row.full, step: this.steps[column] ?? 0 });
    this.rescale();
  }

  /** Open the group of the row, or close it; from a place or a closed group, go to the one around it. */
  unfold(open) {
    const row = this.shown[this.row];
    if (!row || this.filter.value.trim()) return;
    if (row.place === null && row.open !== open) this.clicked(this.row, null);
    else if (!open && row.parents.length) this.reveal(this.shown.findIndex((r) => r.group === row.parents.at(-1)));
  }

  /** Follow the cursor of the mouse or of another chart; null removes it. */
  pointAt(step) {
    this.point(step);
    this.board.group.point(step, this);
  }

  point(step) {
    this.at = step;
    this.rescale();
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { group } = this.board;
    const [low, high] = group.extent();
    const at = this.at ?? high;
    const actions = {
      ArrowUp: () => this.moveRow(-1),
      ArrowDown: () => this.moveRow(1),
      ArrowLeft: () => (event.shiftKey ? this.unfold(false) : this.moveColumn(at, -1)),
      ArrowRight: () => (event.shiftKey ? this.unfold(true) : this.moveColumn(at, 1)),
      Home: () => this.pointAt(low),
      End: () => this.pointAt(high),
      Enter: () => this.row !== null && this.clicked(this.row, this.at),
      "+": () => group.zoom(0.5, at, this.board),
      "-": () => group.zoom(2, at, this.board),
      0: () => group.choose(null, this.board),
      Escape: () => this.left(),
      l: () => this.toggleLog(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  moveRow(by) {
    const from = this.row ?? this.visible()[0] - by;
    this.reveal(Math.min(Math.max(from + by, 0), this.shown.length - 1));
  }

  reveal(row) {
    if (row < 0) return;
    this.row = row;
    const { plotRoot } = this;
    if (row * ROW < plotRoot.scrollTop) plotRoot.scrollTop = row * ROW;
    if ((row + 1) * ROW > plotRoot.scrollTop + this.height) plotRoot.scrollTop = (row + 1) * ROW - this.height;
    this.rescale();
    this.ask();
  }

  moveColumn(at, by) {
    const from = columnAt(this.steps, at);
    if (from < 0) return;
    const to = this.at === null ? from : Math.min(Math.max(from + by, 0), this.steps.length - 1);
    this.pointAt(this.steps[to]);
  }

  /** Write the value at the cursor, and the description for screen readers. */
  say() {
    const row = this.shown?.[this.row];
    const column = this.at === null ? this.steps.length - 1 : columnAt(this.steps, this.at);
    const [first, last] = [this.steps[column], this.last[column]];
    const where = column < 0 ? "" : first === last ? `step ${stepText(first)}` : `steps ${stepText(first)} to ${stepText(last)}`;
    const value = row ? valueText(row, this.cellsOf(row)?.[column], this.sent.merged) : "";
    this.values.replaceChildren(...(where ? [element("span", { class: "where" }, where)] : []),
      ...(row ? [element("span", { class: "value" }, `${row.full} `, element("b", {}, value))] : []));
    const state = row?.place === null ? (row.open ? ", open" : ", closed") : "";
    this.plotRoot.setAttribute("aria-label", `${this.sent.alt}. ${where}${row ? `: ${row.full}${state} ${value}` : ""}. `
      + `${this.count.textContent}. Keys: up and down change the row, Enter or Shift with right and left opens and closes it.`);
  }

  destroy() {
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
    window.removeEventListener("mouseup", this.release);
    this.root.remove();
  }
}
