// The list of plates.

import { get } from "./api.js";
import { dollars, el, hoursOf } from "./dom.js";

const NUMBERS = new Set(["Wells", "Scans", "Pages", "Failed", "Estimated cost"]);

/** When a scan was: its hours, its date to the hour, or its number such as n00000003. @param {number | string | undefined} time */
function told(time) {
  if (time === undefined || time === null) return "–";
  if (typeof time === "number") return hoursOf(time);
  return time.startsWith("n") ? `scan ${Number(time.slice(1))}` : `${time.replace("T", " ")}:00`;
}

/** @param {import("./router.js").Place} place */
export async function showPlates({ main, signal }) {
  const { plates } = await get("plates", signal);
  main.append(el("h1", {}, "Plates"));
  if (!plates.length) {
    main.append(el("p", { class: "note" }, "There are no plates yet. An image joins a plate by its file name, as microscopes write it, or by the fields of its request. ", el("a", { href: "/images" }, "All images"), "."));
    return;
  }
  const heads = ["Plate", "Wells", "Scans", "From", "To", "Pages", "Failed", "Complete", "Estimated cost"];
  main.append(el("table", {}, el("thead", {}, el("tr", {}, heads.map((name) => el("th", { scope: "col", class: NUMBERS.has(name) ? "number" : "" }, name)))),
    el("tbody", {}, plates.map((/** @type {any} */ plate) => el("tr", {},
      el("th", { scope: "row" }, el("a", { href: addressOf(plate.plate) }, plate.plate)), el("td", { class: "number" }, plate.wells ?? 0), el("td", { class: "number" }, plate.scans ?? 0),
      el("td", {}, told(plate.first)), el("td", {}, told(plate.last)), el("td", { class: "number" }, plate.pages ?? 0), el("td", { class: "number" }, plate.failed ?? 0),
      el("td", {}, plate.complete === null ? "–" : plate.complete ? "yes" : `${(plate.pages ?? 0) + (plate.failed ?? 0)} of ${plate.expected_pages}`), el("td", { class: "number" }, dollars(plate.cost_usd ?? 0)))))));
}

/**
 * The address of a plate, or of a well of it.
 * @param {string} plate
 * @param {string} [well]
 * @param {{leave_out?: string}} [asked] which pages are left out
 */
export function addressOf(plate, well, { leave_out = "" } = {}) {
  const query = leave_out ? `?${new URLSearchParams({ leave_out })}` : "";
  return `/plates/${encodeURIComponent(plate)}${well ? `/${encodeURIComponent(well)}` : ""}${query}`;
}
