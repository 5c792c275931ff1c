/** The table of runs: rows on wide screens, cards on narrow ones. A row is kept by its run's id. */

import { element } from "./dom.js";
import { COLUMNS, ORDERS } from "./runcolumns.js";
import { ago, counts } from "./runtext.js";
import { sparkline } from "./sparkline.js";
import { background } from "./theme.js";

export class RunTable {
  constructor(parent, style) {
    this.rows = new Map();
    this.sequence = null;
    this.heads = new Map();
    this.select = element("select", { "aria-label": "Order of the runs", onchange: (e) => this.report("sort", e.target.value) },
      ...ORDERS.map(([value, text]) => element("option", { value }, text)));
    this.body = element("tbody");
    this.table = element("table", { "aria-label": "Runs" }, element("thead", {}, element("tr", {}, ...COLUMNS.map((c) => this.head(...c)))), this.body);
    this.more = element("button", { type: "button", class: "more", onclick: () => this.report("more", this.body.childElementCount) });
    this.root = element("div", { class: "runs" }, style, element("div", { class: "order" }, this.select), this.table, this.more);
    this.root.addEventListener("click", (event) => this.follow(event));
    parent.append(this.root);
    this.clock = setInterval(() => this.showAges(), 1000);
  }

  head(field, title) {
    const cell = element("th", { scope: "col", class: field });
    if (!ORDERS.some(([value]) => value === field)) {
      cell.append(element("span", {}, title));
      return cell;
    }
    const button = element("button", { type: "button", onclick: () => this.report("sort", this.order === field ? `-${field}` : field) }, title);
    cell.append(button);
    this.heads.set(field, cell);
    return cell;
  }

  /** Take what Python sent: all rows, or the fields that changed since the message `base`. */
  take(sent, component) {
    this.component = component;
    this.palettes = sent.colours ?? this.palettes;
    if (this.palettes) this.recolour(this.palettes);
    if (sent.seq === this.sequence) return;
    if (sent.base !== null && sent.base !== this.sequence) {
      this.component.setTriggerValue("resync", this.sequence ?? -1);
      return;
    }
    this.sequence = sent.seq;
    this.ahead = sent.now - Date.now() / 1000;
    for (const fields of sent.rows) this.row(fields.id).take(fields);
    if (sent.order) this.arrange(sent.order);
    if (sent.sort !== undefined) this.showOrder(sent.sort);
    if (sent.left !== undefined) {
      this.more.hidden = sent.left < 1;
      this.more.textContent = `Show more runs (${sent.left} left)`;
    }
    this.showAges();
  }

  row(id) {
    if (!this.rows.has(id)) this.rows.set(id, new Row());
    return this.rows.get(id);
  }

  arrange(order) {
    const kept = new Set(order);
    for (const [id, row] of this.rows) if (!kept.has(id)) { row.root.remove(); this.rows.delete(id); }
    order.forEach((id, i) => {
      const { root } = this.rows.get(id);
      if (this.body.children[i] !== root) this.body.insertBefore(root, this.body.children[i] ?? null);
    });
  }

  showOrder(sort) {
    this.order = sort;
    const field = sort.replace(/^-/, "");
    for (const [name, cell] of this.heads) {
      if (name === field) cell.setAttribute("aria-sort", sort.startsWith("-") ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    this.select.value = ORDERS.some(([value]) => value === sort) ? sort : field;
  }

  showAges() {
    const now = Date.now() / 1000 + this.ahead;
    for (const row of this.rows.values()) row.showAge(now);
  }

  /** The theme of the page may change while the table is shown: both palettes are set. */
  recolour(palettes) {
    const { dark } = background(getComputedStyle(this.root));
    const chosen = dark ? palettes.dark : palettes.light;
    for (const [severity, colour] of Object.entries(chosen.severity)) this.root.style.setProperty(`--${severity}`, colour);
    this.root.style.setProperty("--line", chosen.line[0]);
    this.root.style.setProperty("--muted", chosen.muted);
  }

  /** Open a run without loading the page again; a middle click opens its address in a new tab. */
  follow(event) {
    const link = event.target.closest?.("a[data-run]");
    if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    this.report("open", link.dataset.run);
  }

  report(name, value) {
    this.component.setTriggerValue(name, value);
  }

  close() {
    clearInterval(this.clock);
    this.root.remove();
  }
}

/** A run. Names are text, never HTML. */
class Row {
  constructor() {
    this.cells = Object.fromEntries(COLUMNS.map(([field]) => [field, element("td", { class: field })]));
    this.root = element("tr", {}, ...Object.values(this.cells));
    this.fields = {};
  }

  take(fields) {
    this.fields = { ...this.fields, ...fields };
    const f = this.fields;
    const cells = this.cells;
    this.root.dataset.verdict = f.verdict;
    cells.verdict.replaceChildren(element("span", { class: `verdict ${f.tone}` }, `${f.sign} ${f.verdict}`));
    cells.name.replaceChildren(this.link(f.name, f.name), ...f.tags.map((tag) => element("span", { class: "tag" }, tag)));
    cells.name.title = f.name;
    cells.findings.replaceChildren(...counts(...f.findings).map(([severity, short, words]) => {
      const link = this.link(short, `${words} in ${f.name}`);
      link.classList.add(severity);
      return link;
    }));
    cells.about.replaceChildren(element("div", {}, f.about));
    cells.about.title = f.about;
    cells.loss.replaceChildren(this.curve(f), element("span", { class: "value" }, f.loss));
    cells.step.textContent = f.step;
    cells.rate.textContent = f.rate;
    cells.state.textContent = f.state;
    cells.project.textContent = f.project;
    cells.project.title = f.project;
    cells.host.textContent = f.host;
    cells.host.title = f.host;
  }

  link(text, label) {
    const page = this.fields.verdict === "experiment" ? "experiments" : "run";
    return element("a", { href: `${page}?run=${encodeURIComponent(this.fields.id)}`, "data-run": this.fields.id, "aria-label": label }, text);
  }

  curve({ spark: text, loss, tone }) {
    const svg = sparkline(text, `Loss, now ${loss}`);
    svg.classList.toggle("sick", tone === "error");
    return svg;
  }

  showAge(now) {
    const text = ago(this.fields.at, now);
    if (this.cells.age.textContent !== text) this.cells.age.textContent = text;
  }
}
