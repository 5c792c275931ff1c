/** The entry that Streamlit calls: once when the board appears, and again on every change. */

import uplotStyle from "uplot/dist/uPlot.min.css";
import runsStyle from "./runs.css";
import style from "./style.css";
import { Board } from "./board.js";
import { element } from "./dom.js";
import { RunTable } from "./runs.js";

const BOARDS = new WeakMap();
let calls = 0;

export default function show(component) {
  const { parentElement: parent, data } = component;
  calls += 1;
  const call = calls;
  try {
    let board = BOARDS.get(parent);
    if (!board) {
      board = data.kind === "runs"
        ? new RunTable(parent, element("style", {}, runsStyle))
        : new Board(parent, element("style", {}, uplotStyle, style));
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
