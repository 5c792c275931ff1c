/** A board: the charts of one place of a page, kept over live updates. */

import { Chart } from "./chart.js";
import { element } from "./dom.js";
import { Group } from "./group.js";
import { HeatMap } from "./heat.js";
import { background } from "./theme.js";

/** All boards of the page have one cursor and one range. */
const GROUP = new Group();
const SMOOTHINGS = [["no smoothing", 0], ["light smoothing", 0.6], ["strong smoothing", 0.95]];

export class Board {
  constructor(parent, style) {
    this.group = GROUP;
    this.charts = new Map();
    this.sequence = null;
    this.grid = element("div", { class: "grid" });
    this.smoothing = element("select", { "aria-label": "Smoothing", onchange: (e) => this.smooth(Number(e.target.value)) },
      ...SMOOTHINGS.map(([text, weight]) => element("option", { value: String(weight) }, text)));
    this.tools = element("div", { class: "tools" },
      element("span", { class: "hint" }, "Drag to zoom, double-click for all steps. Keys: ← → + − 0 L"),
      this.smoothing);
    this.root = element("div", { class: "board" }, style, this.tools, this.grid);
    parent.append(this.root);
    this.observer = new ResizeObserver(() => { for (const chart of this.charts.values()) chart.resize(); });
    this.observer.observe(this.grid);
    GROUP.boards.add(this);
  }

  /** Take what Python sent: everything, or the points since the message `base`. */
  take(sent, component) {
    this.component = component;
    // Streamlit may replace a message by the next one before the browser has it, also the first.
    if (sent.base !== null && sent.seq !== this.sequence && sent.base !== this.sequence) {
      this.report("resync", this.sequence ?? -1);
      return;
    }
    const themed = this.theme(sent.colours);
    if (sent.base === null) {
      if (sent.seq !== this.sequence) this.replace(sent);
    } else if (sent.seq !== this.sequence) {
      this.sequence = sent.seq;
      GROUP.full = sent.full;
      for (const part of sent.charts) {
        const chart = this.charts.get(part.key);
        if (part.meta) chart.describe(part.meta);
        chart.grow(part.points);
      }
      for (const chart of GROUP.charts()) chart.rescale();
    }
    if (themed) for (const chart of this.charts.values()) chart.recolour(this.colours);
    this.showState();
  }

  replace(sent) {
    this.sequence = sent.seq;
    this.tools.hidden = sent.tools === false;
    if (sent.full) {
      GROUP.full = sent.full;
      GROUP.adopt(sent.range);
    }
    const keys = new Set(sent.charts.map((c) => c.key));
    for (const [key, chart] of this.charts) if (!keys.has(key)) { chart.destroy(); this.charts.delete(key); }
    for (const one of sent.charts) {
      const chart = this.charts.get(one.key);
      if (chart) chart.take(one);
      else {
        const made = one.kind === "heat" ? new HeatMap(this, one) : new Chart(this, one);
        this.charts.set(one.key, made);
        this.grid.append(made.root);
        made.build(); // its width is known only inside the page
      }
    }
    for (const chart of GROUP.charts()) chart.rescale();
  }

  /** Read the theme of the page; return whether it changed. */
  theme(palettes) {
    const style = getComputedStyle(this.root);
    const { colour, dark } = background(style);
    const name = `${dark}${colour}`;
    if (palettes) this.palettes = palettes;
    if (this.themeName === name) return false;
    const first = this.themeName === undefined;
    this.themeName = name;
    const chosen = dark ? this.palettes.dark : this.palettes.light;
    this.colours = {
      ...chosen,
      background: colour,
      text: style.getPropertyValue("--st-text-color").trim() || chosen.muted,
      grid: style.getPropertyValue("--st-border-color").trim() || chosen.gap,
      font: style.getPropertyValue("--st-font").trim() || "sans-serif",
    };
    return !first;
  }

  smooth(weight) {
    GROUP.smoothing = weight;
    for (const board of GROUP.boards) board.smoothing.value = String(weight);
    for (const chart of GROUP.charts()) if (chart.u) { chart.u.setData(chart.aligned(), false); chart.rescale(); }
  }

  showState() {
    this.smoothing.value = String(GROUP.smoothing);
  }

  /** Tell Python of an event: range, click, rows or resync. */
  report(name, value) {
    this.component.setTriggerValue(name, value);
  }

  close() {
    this.observer.disconnect();
    for (const chart of this.charts.values()) chart.destroy();
    GROUP.boards.delete(this);
    this.root.remove();
  }
}
