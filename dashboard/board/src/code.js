/** A text in a font of fixed width, with a button that copies it. The text is never HTML. */

import { element } from "./dom.js";

const SAID_MS = 2000;

export class CodeBlock {
  constructor(parent, style) {
    this.text = "";
    this.code = element("code");
    this.said = element("span", { role: "status" });
    this.button = element("button", { type: "button", "aria-label": "Copy the text", onclick: () => this.copy() }, "Copy");
    this.root = element("div", { class: "code" }, style, element("pre", {}, this.code), element("div", { class: "copy" }, this.said, this.button));
    parent.append(this.root);
  }

  take(sent) {
    // A live page sends the same text again: a selection in it is kept.
    if (sent.text === this.text) return;
    this.text = sent.text;
    this.code.textContent = sent.text;
  }

  async copy() {
    const copied = await toClipboard(this.text, this.root);
    this.said.textContent = copied ? "Copied" : "Not copied: select the text";
    this.button.focus();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.said.textContent = ""; }, SAID_MS);
  }

  close() {
    clearTimeout(this.timer);
    this.root.remove();
  }
}

/** Copy a text and return whether it worked; `root` is an element beside the button. */
async function toClipboard(text, root) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have `navigator.clipboard` only at https:// and at localhost.
    const field = element("textarea", { class: "outside", "aria-hidden": "true", tabindex: "-1" });
    field.value = text;
    root.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}
