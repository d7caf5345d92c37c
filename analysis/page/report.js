"use strict";
(() => {
  // Charts: each still image gives way to its interactive chart, fitted to a narrow screen.
  const fit = (spec, room) => {
    const cells = spec.layer?.[0].encoding?.x?.scale?.domain ?? []; // of a heat map; an axis has two ends
    if (room < 480 && typeof spec.width === "number") spec.width = Math.max(180, room - 80, 30 * cells.length);
    if (room < 480 && spec.config) spec.config.legend.columns = 4;
    for (const part of spec.concat || []) fit(part, room);
    if (spec.concat && room < 900) spec.columns = room < 680 ? 1 : Math.min(spec.columns, 2);
    return spec;
  };
  const options = {
    ast: true, // no code is made from text, as the page's policy demands
    renderer: "svg",
    logLevel: 1, // errors
    actions: { export: true, source: false, compiled: false, editor: false },
  };
  const draw = async (box) => {
    const still = box.innerHTML;
    const spec = JSON.parse(document.getElementById(box.dataset.specification).textContent);
    try {
      await vegaEmbed(box, fit(spec, box.clientWidth), options);
    } catch (error) {
      box.innerHTML = still;
      console.error(error);
    }
  };
  (async () => {
    for (const box of document.querySelectorAll("[data-specification]")) {
      await draw(box);
      await new Promise((next) => setTimeout(next)); // the page can be read and scrolled meanwhile
    }
  })();

  // Tables: a heading sorts its column; missing values stay last.
  const compare = (a, b) => {
    if (a === "" || b === "") return a === b ? 0 : NaN;
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  for (const button of document.querySelectorAll(".sortable th button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const table = head.closest("table");
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const key = (row) => row.cells[head.cellIndex].dataset.key;
      const order = (one, two) => {
        const by = compare(key(one), key(two));
        return Number.isNaN(by) ? (key(one) === "" ? 1 : -1) : sign * by;
      };
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    });
  }

  // Paper has no clicks: everything is open in print, but for generations, which fill a book; those open now stay so.
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("main section:not(#generations) details")) part.open = true;
  });
})();
