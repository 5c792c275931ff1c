/** The columns of the table of runs, and its orders. */

/** Field and title. A title is a button that sorts by the field. */
export const COLUMNS = [
  ["verdict", "Verdict"], ["name", "Run"], ["findings", "Findings"], ["about", ""], ["loss", "Loss"],
  ["step", "Step"], ["rate", "Speed"], ["age", "Last report"], ["state", "State"], ["project", "Project"], ["host", "Host"],
];
/** Value and text of the orders; the values are those in parts/run_rows.py. */
export const ORDERS = [["", "Newest first"], ["verdict", "Worst first"], ["name", "Name"], ["findings", "Most findings"], ["loss", "Smallest loss"],
  ["step", "Most steps"], ["rate", "Fastest"], ["age", "Last report"], ["state", "State"], ["project", "Project"], ["host", "Host"]];
