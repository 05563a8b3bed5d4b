// Every size as a row of a table: what the curve draws, in text.

import { bytes, figures, millions, percent } from "./numbers.js";

/**
 * @param {HTMLTableElement} table with a head
 * @param {import("./family.js").Family} family
 */
export function fillTable(table, family) {
  const rows = family.sizes.map((size) => {
    const ms = family.predictedMs(size) ?? family.measuredMs.get(size.id);
    const cells = [millions(size.parameters), percent(size.fraction), size.layers, bytes(size.bytes), size.quality ? figures(size.quality.perplexity) : "–", ms === undefined ? "–" : ms.toFixed(1)];
    const name = Object.assign(document.createElement("th"), { scope: "row", textContent: size.id });
    const row = document.createElement("tr");
    row.append(name, ...cells.map((content) => Object.assign(document.createElement("td"), { textContent: content })));
    return row;
  });
  table.tBodies[0].replaceChildren(...rows);
}
