/** One chart: its header (title, values at the cursor, buttons) and its uPlot canvas. */

import uPlot from "uplot";
import { element } from "./dom.js";
import { LANE, bands, hatched, overlay, underlay } from "./draw.js";
import { download } from "./png.js";
import { append, gaps, halved, middles, nearest, POINTS_MAX, smoothed, unpack } from "./points.js";
import { heightOf, numberText, stepText, stepTicks, tickTexts, valueTicks, withRoom } from "./scale.js";

const CLICK_PX = 4;
/** Names of layers with more characters than this are written at an angle. */
const UPRIGHT_MAX = 3;

export class Chart {
  constructor(board, sent) {
    this.board = board;
    this.key = sent.key;
    this.colours = board.colours;
    this.chosenLog = null; // true or false where the user has chosen
    this.values = element("span", { class: "values" });
    this.title = element("h5", {});
    this.scaleButton = element("button", { type: "button", class: "scale", onclick: () => this.toggleLog() });
    this.pngButton = element("button", { type: "button", onclick: () => this.save() }, "PNG");
    this.empty = element("p", { class: "empty" }, "Not measured in these steps.");
    this.plotRoot = element("div", { class: "plot", tabindex: "0", role: "img", onkeydown: (e) => this.pressed(e) });
    this.root = element("section", { class: "chart", "data-key": this.key },
      element("header", {}, this.title, this.values, this.scaleButton, this.pngButton), this.plotRoot, this.empty);
    this.take(sent);
  }

  /** Replace everything by a full description. */
  take(sent) {
    this.sent = sent;
    this.layers = sent.layers ?? null;
    this.labels = sent.labels ?? this.layers;
    this.overSteps = this.layers === null;
    this.series = sent.series.map((s, i) => ({
      place: s.place, name: s.name, points: unpack(s.points), broken: new Set(),
      colour: this.colours.line[i % this.colours.line.length],
    }));
    this.describe(sent);
    this.build();
  }

  /** Take marks and limits, which change while the points only grow. */
  describe(meta) {
    this.sent = { ...this.sent, ...meta };
    this.marks = meta.marks ?? [];
    this.dropped = meta.dropped ?? [];
    this.limit = meta.limit ?? null;
    this.here = meta.here ?? null;
    this.title.textContent = meta.title;
    this.root.classList.toggle("wide", Boolean(meta.wide));
  }

  /** Append new points: place → columns. */
  grow(more) {
    for (const series of this.series) {
      if (!more[series.place]) continue;
      append(series.points, unpack(more[series.place]));
      if (series.points.step.length > POINTS_MAX) series.points = halved(series.points, this.dropped);
    }
    if (!this.u) return;
    this.u.setData(this.aligned(), false);
    this.rescale();
    this.say();
  }

  get log() {
    return this.chosenLog ?? this.sent.log;
  }

  toggleLog() {
    this.chosenLog = !this.log;
    this.build();
  }

  save() {
    const lines = this.series.map(({ name, colour }) => [name, colour]);
    download(this.sent.title, lines, this.plotRoot.querySelector("canvas"), this.colours);
  }

  /** Build the canvas anew: for another theme, scale or set of series. */
  build() {
    this.u?.destroy();
    this.u = null;
    this.pattern = null;
    const some = this.series.some((s) => s.points.step.length);
    this.empty.hidden = some;
    this.plotRoot.hidden = !some;
    this.scaleButton.hidden = this.pngButton.hidden = !some;
    this.pngButton.title = "Download this chart as a PNG file";
    this.pngButton.setAttribute("aria-label", `${this.sent.title}: ${this.pngButton.title}`);
    this.scaleButton.textContent = this.log ? "log" : "linear";
    this.scaleButton.title = `The vertical axis is ${this.log ? "logarithmic" : "linear"}; click to change it`;
    this.scaleButton.setAttribute("aria-label", `${this.sent.title}: ${this.scaleButton.title}`);
    if (some) this.u = new uPlot(this.options(), this.aligned(), this.plotRoot);
    this.say();
  }

  /** Draw anew with the colours of another theme. */
  recolour(colours) {
    this.colours = colours;
    this.take({ ...this.sent, series: this.series.map((s) => ({ place: s.place, name: s.name, points: s.points })) });
  }

  destroy() {
    this.u?.destroy();
    this.root.remove();
  }

  resize() {
    const width = this.plotRoot.clientWidth;
    if (this.u && width > 0 && width !== this.u.width) this.u.setSize({ width, height: this.sent.height });
  }

  /** Return uPlot's data: joined steps, then the heights of each series. */
  aligned() {
    const tables = this.series.map((series) => {
      series.broken = this.overSteps ? gaps(series.points, this.dropped) : new Set();
      const drawn = smoothed(series.points, this.overSteps ? this.board.group.smoothing : 0, series.broken);
      const [x, y] = [[], []];
      middles(series.points).forEach((middle, i) => {
        if (series.broken.has(i)) {
          // At both ends: in between may be points of other series, to which uPlot would draw on.
          x.push(series.points.last[i - 1] + 0.01, series.points.step[i] - 0.01);
          y.push(null, null);
        }
        x.push(middle);
        y.push(heightOf(drawn[i], this.log));
      });
      return [x, y];
    });
    return tables.length > 1 ? uPlot.join(tables, tables.map(() => [0, 2])) : tables[0];
  }

  /** Return the drawn ends of the horizontal axis. */
  xRange() {
    return this.overSteps ? this.board.group.extent() : [-0.4, this.layers.length - 0.6];
  }

  /** Return the drawn ends of the vertical axis: the values in the range, and the limit. */
  yRange() {
    const [first, last] = this.xRange();
    let [low, high] = [Infinity, -Infinity];
    const take = (value) => {
      const height = heightOf(value, this.log);
      if (height === null) return;
      low = Math.min(low, height);
      high = Math.max(high, height);
    };
    for (const { points } of this.series) {
      for (let i = 0; i < points.step.length; i += 1) {
        if (points.last[i] >= first && points.step[i] <= last) { take(points.min[i]); take(points.max[i]); take(points.mean[i]); }
      }
    }
    if (this.limit) take(this.limit.value);
    if (this.sent.fromZero) take(0);
    return withRoom(low, high, this.log);
  }

  rescale() {
    if (!this.u) return;
    const [min, max] = this.xRange();
    this.u.batch(() => {
      this.u.setScale("x", { min, max });
      const [low, high] = this.yRange();
      this.u.setScale("y", { min: low, max: high });
    });
    this.u.redraw(true, true);
    this.say();
  }

  options() {
    const c = this.colours;
    const axis = { stroke: c.muted, grid: { stroke: c.grid, width: 1 }, ticks: { show: false }, font: `11px ${c.font}` };
    const { overSteps } = this;
    const lane = overSteps && (this.marks.length || this.dropped.length) ? LANE + 4 : 8;
    const single = this.series.every((s) => s.points.step.length === 1);
    return {
      width: Math.max(this.plotRoot.clientWidth, 200),
      height: this.sent.height,
      padding: [lane, 14, overSteps ? 0 : 4, overSteps ? 0 : leftRoom(this.labels[0])],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: overSteps, y: false, setScale: false, dist: CLICK_PX },
        points: { size: 7 },
      },
      scales: {
        x: { time: false, range: () => this.xRange() },
        y: { range: () => this.yRange() },
      },
      axes: [
        overSteps
          ? { ...axis, size: 30, grid: { show: false }, splits: (u, _, low, high) => stepTicks(low, high, Math.max(2, u.width / 110)), values: (_, at) => at.map(stepText) }
          : { ...axis, size: (_, texts) => layerRoom(texts), rotate: (_, texts) => (longest(texts) > UPRIGHT_MAX ? 40 : 0), grid: { show: false }, splits: (u) => this.layerTicks(u), values: (_, at) => at.map((i) => this.labels[i] ?? "") },
        {
          ...axis, size: (_, texts) => 14 + 6.4 * Math.max(...(texts ?? [""]).map((t) => t.length), 3),
          splits: (u, _, low, high) => valueTicks(low, high, Math.max(2, u.height / 60), this.log),
          values: (_, at) => tickTexts(at, this.log),
        },
      ],
      // Between the first and the last curve: the share of entries between two percentiles.
      bands: this.sent.filled && this.series.length > 1 ? [{ series: [1, this.series.length], fill: `${this.series[0].colour}1f` }] : [],
      series: [{}, ...this.series.map((s) => ({ stroke: s.colour, width: 1.8, points: { show: single || !overSteps, size: 5, fill: s.colour } }))],
      hooks: {
        drawClear: [(u) => { underlay(u, this); }],
        drawAxes: [(u) => bands(u, this)],
        draw: [(u) => overlay(u, this)],
        setCursor: [(u) => this.hovered(u)],
        setSelect: [(u) => this.selected(u)],
        ready: [(u) => this.listen(u)],
      },
    };
  }

  layerTicks(u) {
    const every = Math.max(1, Math.ceil(this.layers.length / Math.max(2, u.width / 26)));
    return this.layers.map((_, i) => i).filter((i) => i % every === 0);
  }

  listen(u) {
    u.over.addEventListener("dblclick", () => this.overSteps && this.board.group.choose(null, this.board));
    u.over.addEventListener("mouseleave", () => this.pointAt(null));
    u.over.addEventListener("mousedown", () => { this.dragged = false; });
    u.over.addEventListener("click", () => {
      if (!this.dragged && this.at !== null) this.clicked();
    });
  }

  hovered(u) {
    if (u.cursor.left < 0 || u.cursor.left === undefined) return;
    this.pointAt(u.posToVal(u.cursor.left, "x"));
  }

  /** Show the values at a step here and in the other charts; null removes the cursor. */
  pointAt(x) {
    this.at = x;
    this.say();
    if (this.overSteps) this.board.group.point(x, this);
  }

  /** Follow the cursor of another chart. */
  point(step) {
    this.at = step;
    if (this.u) {
      const left = step === null ? -10 : this.u.valToPos(step, "x");
      this.u.setCursor({ left, top: -10 }, false);
    }
    this.say();
  }

  selected(u) {
    if (u.select.width < CLICK_PX) return;
    this.dragged = true; // the click that follows is the end of the drag
    const first = u.posToVal(u.select.left, "x");
    const last = u.posToVal(u.select.left + u.select.width, "x");
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    const { group } = this.board;
    group.choose(group.within(first, last), this.board);
  }

  clicked() {
    if (!this.sent.clicks) return;
    const [series] = this.series;
    const i = series ? nearest(series.points, this.at) : -1;
    if (i >= 0) this.board.report("click", { chart: this.key, series: series.place, step: series.points.step[i] });
  }

  pressed(event) {
    if (!this.u || event.ctrlKey || event.metaKey || event.altKey) return;
    const [low, high] = this.xRange();
    const at = this.at ?? high;
    const { group } = this.board;
    const actions = {
      ArrowLeft: () => this.step(at, -1),
      ArrowRight: () => this.step(at, 1),
      Home: () => this.move(low),
      End: () => this.move(high),
      Enter: () => this.clicked(),
      "+": () => this.overSteps && group.zoom(0.5, at, this.board),
      "-": () => this.overSteps && group.zoom(2, at, this.board),
      0: () => this.overSteps && group.choose(null, this.board),
      Escape: () => this.move(null),
      l: () => this.toggleLog(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** Move the cursor to the next bucket in a direction. */
  step(at, direction) {
    const points = this.series[0]?.points;
    if (!points?.step.length) return;
    const i = nearest(points, at);
    const to = this.at === null || this.at === undefined ? i : Math.min(Math.max(i + direction, 0), points.step.length - 1);
    this.move((points.step[to] + points.last[to]) / 2);
  }

  move(x) {
    this.point(x);
    if (this.overSteps) this.board.group.point(x, this);
  }

  /** Write the values at the cursor, or the newest ones, and the description for screen readers. */
  say() {
    const at = this.at ?? null;
    const parts = this.series.flatMap((series) => {
      const i = at === null ? series.points.step.length - 1 : nearest(series.points, at);
      return i < 0 ? [] : [{ series, i }];
    });
    const read = parts.map(({ series, i }) => `${series.name} ${this.valueText(series.points, i)}`);
    const where = parts.length ? this.whereText(parts[0].series.points, parts[0].i) : "";
    this.values.replaceChildren(
      ...(where ? [element("span", { class: "where" }, where)] : []),
      ...parts.map(({ series, i }) => element("span", { class: "value" },
        element("i", { style: `background:${series.colour}`, "aria-hidden": "true" }),
        ...(this.series.length > 1 ? [...breakable(series.name), " "] : []),
        element("b", {}, this.valueText(series.points, i)))));
    this.plotRoot.setAttribute("aria-label", `${this.sent.alt}. ${where ? `${where}: ` : ""}${read.join(", ")}.`);
  }

  valueText(points, i) {
    const bad = points.bad[i] ? "not finite" : "";
    if (points.mean[i] === null) return bad || "–";
    const range = points.count[i] > 1 && points.min[i] !== points.max[i]
      ? ` (${numberText(points.min[i])} to ${numberText(points.max[i])})` : "";
    return [numberText(points.mean[i]) + range, bad].filter(Boolean).join(", ");
  }

  whereText(points, i) {
    if (!this.overSteps) return this.layers[points.step[i]] ?? "";
    const [first, last] = [points.step[i], points.last[i]];
    return first === last ? `step ${stepText(first)}` : `steps ${stepText(first)} to ${stepText(last)}`;
  }

  /** Return the names above the plot, most severe first where they begin at the same step. */
  lane() {
    const { severity, muted } = this.colours;
    const findings = this.marks.map((m) => ({ step: m.step, text: m.text, colour: severity[m.severity] ?? muted, line: true }));
    const lost = this.dropped.map((d) => ({ step: d.first, text: d.text, colour: muted, line: false }));
    return [...findings, ...lost].sort((a, b) => a.step - b.step);
  }

  /** Return a hatch: steps without a measurement are neither lost nor non-finite. */
  hatch(ctx) {
    this.pattern ||= hatched(ctx, this.colours.muted);
    return this.pattern;
  }
}

function longest(texts) {
  return Math.max(0, ...(texts ?? []).map((t) => t.length));
}

/** Return the room left of the axis for the part of the first angled label that the axis of values does not hold. */
function leftRoom(label) {
  const length = label?.length ?? 0;
  return length > UPRIGHT_MAX ? Math.max(0, 4.8 * length - 36) : 0;
}

/** Return a dotted name with places where a line may end. */
function breakable(name) {
  return name.split(/(?<=[._])/).flatMap((part) => [part, element("wbr")]);
}

/** Return the height of the axis of layers in CSS pixels for its names, null before they are known. */
function layerRoom(texts) {
  return longest(texts) > UPRIGHT_MAX ? Math.min(26 + 4.4 * longest(texts), 104) : 26;
}
