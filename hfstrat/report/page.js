"use strict";
// Sorts and filters tables, and shows one panel of several. Everything is there without it.

const collator = new Intl.Collator(undefined, { numeric: true });

function make(name, attributes, text) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// What a cell is sorted by; null where it is empty, which comes last either way.
function keyOf(cell) {
  if (cell.dataset.sort !== undefined) {
    const number = Number(cell.dataset.sort);
    return Number.isNaN(number) ? cell.dataset.sort : number;
  }
  return cell.textContent.trim() || null;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return collator.compare(a, b);
}

function sortBy(header) {
  const row = header.parentElement;
  const body = header.closest("table").tBodies[0];
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of row.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = [...body.rows].map((line) => [keyOf(line.cells[header.cellIndex]), line]);
  const known = keyed.filter(([key]) => key !== null);
  const unknown = keyed.filter(([key]) => key === null);
  known.sort(([a], [b]) => (down ? compareKeys(b, a) : compareKeys(a, b)));
  body.append(...[...known, ...unknown].map(([, line]) => line));
}

function filter(tools) {
  const table = document.getElementById(tools.dataset.for);
  const fields = {};
  for (const field of tools.querySelectorAll("[data-filter]")) fields[field.dataset.filter] = field.value;
  const { text, arm, answer, ...same } = fields;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const line of table.tBodies[0].rows) {
    const content = line.textContent.toLowerCase();
    const matches =
      words.every((word) => content.includes(word)) &&
      Object.entries(same).every(([name, value]) => !value || line.dataset[name] === value) &&
      (!arm || JSON.parse(line.dataset[answer]).includes(arm));
    line.hidden = !matches;
    shown += matches ? 1 : 0;
  }
  tools.querySelector("[role=status]").textContent = `${shown} of ${table.tBodies[0].rows.length} shown`;
}

function choose(panels, choices, chosen) {
  for (const panel of panels.children) panel.hidden = panel !== chosen;
  for (const button of choices.children) {
    button.setAttribute("aria-pressed", String(button.textContent === chosen.dataset.panel));
  }
}

for (const header of document.querySelectorAll("th[data-sortable]")) {
  const button = make("button", { type: "button" }, header.textContent);
  header.setAttribute("aria-sort", "none");
  header.replaceChildren(button);
  button.addEventListener("click", () => sortBy(header));
}

for (const tools of document.querySelectorAll(".tools")) {
  tools.hidden = false;
  tools.addEventListener("input", () => filter(tools));
}

for (const panels of document.querySelectorAll(".panels")) {
  if (panels.children.length < 2) continue;
  const choices = make("div", { class: "choices", role: "group", "aria-label": panels.dataset.panels });
  for (const panel of panels.children) {
    const button = make("button", { type: "button" }, panel.dataset.panel);
    button.addEventListener("click", () => choose(panels, choices, panel));
    choices.append(button);
  }
  panels.before(choices);
  choose(panels, choices, panels.children[0]);
}

for (const entry of document.querySelectorAll(".legend [data-series]")) {
  const button = make("button", { type: "button", "aria-pressed": "true" });
  button.append(...entry.childNodes);
  entry.replaceChildren(button);
  button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    for (const line of entry.closest("figure").querySelectorAll(`.chart [data-series="${entry.dataset.series}"]`)) {
      line.classList.toggle("off", off);
    }
  });
}
