/** A table of texts and small curves: rows on wide screens, cards on narrow ones. */

import { element } from "./dom.js";
import { csvOf, sorted } from "./tablerows.js";
import { sparkline } from "./sparkline.js";

/** Rows that are shown before a reader asks for all. */
const ROWS = 100;

export class Table {
  constructor(parent, style) {
    this.all = false;
    this.heads = element("tr", { role: "row" });
    this.body = element("tbody", { role: "rowgroup" });
    // The roles: with another `display`, a browser does not report a table to a screen reader.
    this.table = element("table", { role: "table" }, element("thead", { role: "rowgroup" }, this.heads), this.body);
    this.more = element("button", { type: "button", class: "more", onclick: () => this.showAll() });
    this.csv = element("button", { type: "button", class: "more", onclick: () => this.save() }, "CSV");
    this.root = element("div", { class: "rows" }, style, this.table, this.more, this.csv);
    parent.append(this.root);
  }

  take(sent, component) {
    if (sent.changed) {
      if (sent.seq === this.seq) return;
      if (sent.base !== this.seq) {
        component.setTriggerValue("resync", this.seq ?? -1);
        return;
      }
      this.seq = sent.seq;
      for (const [i, cells] of Object.entries(sent.changed)) this.sent.rows[i] = cells;
      this.show();
      return;
    }
    const text = JSON.stringify(sent);
    // A live page sends the same rows again: a selection in them is kept.
    if (text === this.text) return;
    this.text = text;
    this.seq = sent.seq;
    this.sent = { ...sent, rows: [...sent.rows] };
    this.order = null; // [column, 1 or -1]; null is the order of the server
    this.table.setAttribute("aria-label", sent.label);
    this.csv.setAttribute("aria-label", `${sent.label}: download all rows as CSV`);
    this.heads.replaceChildren(...sent.columns.map(({ title, kind }, i) => element("th", { scope: "col", role: "columnheader", class: kind },
      kind === "curve" ? title : element("button", { type: "button", title: `Sort by ${title}`, onclick: () => this.sort(i) }, title))));
    this.show();
  }

  /** Sort by a column: ascending, descending, and again in the order of the server. */
  sort(column) {
    const before = this.order?.[0] === column ? this.order[1] : 0;
    this.order = before === -1 ? null : [column, before ? -1 : 1];
    this.show();
  }

  save() {
    const url = URL.createObjectURL(new Blob([csvOf(this.sent.columns, this.rows())], { type: "text/csv" }));
    element("a", { href: url, download: `${this.sent.label.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  /** Return all rows in the order that is shown. */
  rows() {
    return this.order ? sorted(this.sent.rows, ...this.order) : this.sent.rows;
  }

  showAll() {
    this.all = true;
    this.show();
  }

  show() {
    const { columns } = this.sent;
    const rows = this.rows();
    [...this.heads.children].forEach((head, i) => {
      const way = this.order?.[0] === i ? this.order[1] : 0;
      head.setAttribute("aria-sort", ["descending", "none", "ascending"][way + 1]);
    });
    this.root.classList.toggle("single", rows.length < 2);
    const shown = this.all ? rows : rows.slice(0, ROWS);
    this.body.replaceChildren(...shown.map((cells) => element("tr", { role: "row" }, ...cells.map((cell, i) => made(cell, columns[i])))));
    this.more.hidden = shown.length === rows.length;
    this.more.textContent = `Show all ${rows.length} rows`;
  }

  close() {
    this.root.remove();
  }
}

/** Return a cell; one with a shade comes as [text, share of the strongest shade]. */
function made(cell, { title, kind }) {
  const [text, share] = Array.isArray(cell) ? cell : [cell, 0];
  const content = kind === "curve" && text ? sparkline(text, title) : text;
  const node = element("td", { role: "cell", class: kind, "data-title": title }, element("span", {}, content));
  if (share > 0) node.style.setProperty("--shade", `${55 * share}%`);
  return node;
}
