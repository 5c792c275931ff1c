/** The columns of the table of runs, and its orders. */

/** Field and title. The title of a field that is an order is a button that sorts by it. */
export const COLUMNS = [
  ["verdict", "Verdict"], ["name", "Run"], ["findings", "Findings"], ["about", "Main finding"], ["loss", "Loss"],
  ["step", "Step"], ["rate", "Speed"], ["age", "Last report"], ["state", "State"], ["project", "Project"], ["host", "Host"],
];
/** Value and text of the orders; the values are those in parts/run_rows.py. */
export const ORDERS = [["", "Newest first"], ["verdict", "Worst first"], ["name", "Name"], ["findings", "Most findings"], ["loss", "Smallest loss"],
  ["step", "Most steps"], ["rate", "Fastest"], ["age", "Last report"], ["state", "State"], ["project", "Project"], ["host", "Host"]];
