/** The entry that Streamlit calls: once when the board appears, and again on every change. */

import uplotStyle from "uplot/dist/uPlot.min.css";
import blocksStyle from "./blocks.css";
import runsStyle from "./runs.css";
import style from "./style.css";
import { Board } from "./board.js";
import { CodeBlock } from "./code.js";
import { element } from "./dom.js";
import { embedded } from "./embed.js";
import { RunTable } from "./runs.js";
import { Table } from "./table.js";

/** Kind of a message → what shows it, and its styles. */
const KINDS = {
  board: [Board, uplotStyle, style],
  runs: [RunTable, runsStyle],
  code: [CodeBlock, blocksStyle],
  table: [Table, blocksStyle],
};
const BOARDS = new WeakMap();
let calls = 0;

export default function show(component) {
  const { parentElement: parent, data } = component;
  calls += 1;
  const call = calls;
  try {
    let board = BOARDS.get(parent);
    if (!board) {
      const [Shown, ...styles] = KINDS[data.kind ?? "board"];
      board = new Shown(parent, element("style", {}, ...styles));
      BOARDS.set(parent, board);
    }
    board.call = call;
    board.take(data, component);
  } catch (error) {
    // Streamlit would replace the board by an error box, and live updates would end.
    console.error(error);
  }
  return () => {
    // Streamlit may run the clean-up of an outdated call after the next call.
    if (BOARDS.get(parent)?.call !== call) return;
    BOARDS.get(parent).close();
    BOARDS.delete(parent);
  };
}

embedded(show);
