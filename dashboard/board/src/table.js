/** A table of texts and small curves: rows on wide screens, cards on narrow ones. */

import { element } from "./dom.js";
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
    this.root = element("div", { class: "rows" }, style, this.table, this.more);
    parent.append(this.root);
  }

  take(sent) {
    const text = JSON.stringify(sent);
    // A live page sends the same rows again: a selection in them is kept.
    if (text === this.text) return;
    this.text = text;
    this.sent = sent;
    this.table.setAttribute("aria-label", sent.label);
    this.heads.replaceChildren(...sent.columns.map(({ title, kind }) => element("th", { scope: "col", role: "columnheader", class: kind }, title)));
    this.show();
  }

  showAll() {
    this.all = true;
    this.show();
  }

  show() {
    const { columns, rows } = this.sent;
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
