// Filters and sorts the index tables, keeps both in the address, and lights up a curve with its name.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll("[data-filterable]").forEach(setUpTable);
  document.querySelectorAll(".plots").forEach(setUpPlots);
});

function setUpTable(box) {
  const table = box.querySelector("table");
  const rows = [...table.tBodies[0].rows];
  const input = box.querySelector("input[type=search]");
  const selects = [...box.querySelectorAll("select")];
  const count = box.querySelector("[data-count]");
  const state = new URLSearchParams(location.hash.slice(1));
  input.value = state.get("q") ?? "";
  selects.forEach((s) => { if (state.get(s.name)) s.value = state.get(s.name); });

  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = `${row.textContent} ${row.dataset.words ?? ""}`.toLowerCase();
      const hit = words.every((w) => text.includes(w)) &&
        selects.every((s) => !s.value || (row.dataset[s.name] ?? "").split(" ").includes(s.value));
      row.hidden = !hit;
      shown += hit;
    }
    count.textContent = `${shown} of ${rows.length}`;
    const next = new URLSearchParams();
    if (input.value) next.set("q", input.value);
    selects.forEach((s) => { if (s.value) next.set(s.name, s.value); });
    history.replaceState(null, "", next.toString() ? `#${next}` : location.pathname);
  };
  const sort = (column) => {
    const heads = [...table.tHead.rows[0].cells];
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    rows.sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true }) * (down ? -1 : 1));
    table.tBodies[0].append(...rows);
  };
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    const button = cell.querySelector("button");
    if (button) button.addEventListener("click", () => sort(i));
  });
  input.addEventListener("input", apply);
  selects.forEach((s) => s.addEventListener("change", apply));
  apply();
}

function setUpPlots(box) {
  const light = (id) => box.querySelectorAll("[data-method]").forEach((path) => {
    path.classList.toggle("lit", path.dataset.method === id);
  });
  box.querySelectorAll("[data-lights]").forEach((name) => {
    name.addEventListener("mouseenter", () => light(name.dataset.lights));
    name.addEventListener("focus", () => light(name.dataset.lights));
    name.addEventListener("mouseleave", () => light(null));
    name.addEventListener("blur", () => light(null));
  });
}
