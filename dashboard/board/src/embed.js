/** The board in a downloaded report: its data is in the page, and there is no server.

figures/report.py writes the elements `board` and `board-data`. The images after `board`, which need
no script, are hidden once the charts are drawn. */

export function embedded(show) {
  const host = document.getElementById("board");
  const data = document.getElementById("board-data");
  if (!host || !data) return;
  const component = {
    parentElement: host.attachShadow({ mode: "open" }),
    data: JSON.parse(data.textContent),
    setTriggerValue() {}, // a range has no more detail than the page contains
  };
  show(component);
  const images = host.nextElementSibling;
  if (images && host.shadowRoot.querySelector("canvas")) images.style.display = "none";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(component));
}
