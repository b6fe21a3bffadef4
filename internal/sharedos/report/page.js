
"use strict";
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  if (body.rows.length > 4) {
    const label = document.createElement("label");
    label.className = "filter";
    label.textContent = "Filter";
    const input = document.createElement("input");
    input.type = "search";
    const said = document.createElement("span");
    said.setAttribute("role", "status");
    label.append(input, " ", said);
    table.parentElement.before(label);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      let shown = 0;
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      said.textContent = input.value ? shown + " of " + body.rows.length : "";
    });
  }
  const key = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) {
        other.setAttribute("aria-sort", "none");
      }
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => a - b || a.localeCompare(b, undefined, { numeric: true });
      const rows = [...body.rows].sort((a, b) => compare(key(a, head.cellIndex), key(b, head.cellIndex)) * (down ? -1 : 1));
      body.append(...rows);
    });
  }
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) {
    details.open = true;
  }
});
