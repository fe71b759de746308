// One plate: a heat map with a time slider, curves, what was left out and why.

import { get } from "./api.js";
import { curves, heat, keyOf, sparkline } from "./charts.js";
import { counted, dollars, el, fixed, hoursOf, keyOfImage } from "./dom.js";
import { addressOf } from "./plates.js";
import { entitle, note, show as showAgain } from "./router.js";
import { inWords } from "./words.js";

/** @typedef {{place: [number, number], condition: string, pages: number, flagged: number, hours: number[], confluence: (number | null)[], growth: any, sites: Record<string, any>}} Well */
/** @typedef {{plate: string, rows: number, columns: number, scans: number[], wells: Record<string, Well>, conditions: any[], control: string | null, pages: any[], left_out: {image: string, well: string, reason: string}[], left_out_count: number, notes: string[], complete: boolean | null, failures: number, cost_usd: number}} Plate */

/** @typedef {{time: string, show: string, leave_out: string, control: string}} State of the view, as the address holds it */

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const MOST_CURVES = 24;

/** @param {string} plate @param {URLSearchParams} query @param {AbortSignal} signal @returns {Promise<Plate>} */
export function fetchPlate(plate, query, signal) {
  const asked = new URLSearchParams();
  for (const name of ["leave_out", "control"]) if (query.get(name)) asked.set(name, query.get(name) ?? "");
  return get(`plates/${encodeURIComponent(plate)}?${asked}`, signal);
}

/** @param {import("./router.js").Place} place */
export async function showPlate({ main, parts, query, signal }) {
  const plate = await fetchPlate(parts[0], query, signal);
  entitle(plate.plate);
  const scans = plate.scans.length ? plate.scans : [0];
  /** @type {State} */
  const state = { time: query.get("time") ?? "", show: query.get("show") ?? "confluence", leave_out: query.get("leave_out") ?? "", control: query.get("control") ?? "" };
  const at = scans.findIndex((hour) => String(hour) === state.time);
  const slider = el("input", { type: "range", min: 0, max: scans.length - 1, step: 1, id: "time", "aria-label": "Time" });
  slider.value = String(at < 0 ? scans.length - 1 : at);
  const told = el("output", { for: "time" });
  const show = el("select", { id: "show" }, [["confluence", "confluence at this time"], ["growth", "doubling time"], ["curve", "curve of each well"]].map(([value, words]) => el("option", { value, selected: value === state.show }, words)));
  const flagged = el("input", { type: "checkbox", id: "flagged", checked: state.leave_out === "all" });
  const grid = el("div", { class: plate.columns > 12 ? "wells" : "wells few", role: "group", "aria-label": "Wells. Arrow keys walk over them" });
  walk(grid, plate);
  const wide = plate.columns > 24 ? 1.6 : plate.columns > 12 ? 2.6 : plate.columns > 6 ? 4.2 : 6; // rem
  grid.style.gridTemplateColumns = `1.6rem repeat(${plate.columns}, minmax(1.4rem, ${wide}rem))`;
  const legend = el("div", { class: "legend" });
  main.append(el("h1", {}, plate.plate), el("p", { class: "quiet" }, summary(plate)), ...plate.notes.map((text) => el("p", { class: "note" }, inWords(text))),
    el("div", { class: "tools" }, el("label", {}, "Show", show), el("label", {}, "Time", slider, told), el("label", {}, flagged, "leave out pages with a warning")),
    grid, legend, ...conditionsOf(plate), ...wellTable(plate, state), ...leftOut(plate));

  const draw = () => {
    const hour = scans[Number(slider.value)];
    slider.disabled = state.show !== "confluence"; // the others show the whole time
    told.textContent = hoursOf(hour);
    slider.setAttribute("aria-valuetext", hoursOf(hour));
    grid.replaceChildren(el("span", {}), ...Array.from({ length: plate.columns }, (_, column) => el("span", { class: "quiet" }, String(column + 1))), ...cells(plate, hour, state));
    legend.replaceChildren(...legendOf(state.show, plate));
  };
  const changed = () => {
    state.time = String(scans[Number(slider.value)]);
    state.show = show.value;
    note(state);
    draw();
  };
  slider.addEventListener("input", changed);
  show.addEventListener("change", changed);
  flagged.addEventListener("change", async () => {
    state.leave_out = flagged.checked ? "all" : "";
    note(state);
    await showAgain();
    document.getElementById("flagged")?.focus();
  });
  draw();
}

/** @param {Plate} plate */
function summary(plate) {
  const complete = plate.complete === null ? "" : plate.complete ? "; complete" : "; not complete yet";
  return `${counted(Object.keys(plate.wells).length, "well")}, ${counted(plate.scans.length, "scan")}, ${counted(plate.pages.length, "page")}${plate.failures ? `, ${plate.failures} failed` : ""}${complete}; estimated cost ${dollars(plate.cost_usd)}.`;
}

/** The confluence of a well at the hour of a scan; null if the well lacks the scan. @param {Well} well @param {number} hour */
function confluenceAt(well, hour) {
  return well.confluence[well.hours.indexOf(hour)] ?? null;
}

/** @param {Plate} plate @param {number} hour @param {State} state */
function cells(plate, hour, { show, leave_out }) {
  const byPlace = new Map(Object.entries(plate.wells).map(([name, well]) => [well.place.join("/"), { name, well }]));
  const [fast, slow] = fastestAndSlowest(plate);
  const last = plate.scans[plate.scans.length - 1] ?? 1;
  const made = [];
  let first = true;
  for (let row = 0; row < plate.rows; row += 1) {
    made.push(el("span", { class: "quiet" }, row < 26 ? LETTERS[row] : `A${LETTERS[row - 26]}`));
    for (let column = 0; column < plate.columns; column += 1) {
      const found = byPlace.get(`${row}/${column}`);
      if (!found) {
        made.push(el("span", { class: "well none" }));
        continue;
      }
      const { name, well } = found;
      const share = confluenceAt(well, hour);
      const doubling = well.growth.doubling_time_h;
      const words = show === "growth" ? (doubling ? `doubles in ${doubling.toFixed(1)} h` : well.growth.rate_per_h === 0 ? "no growth" : "growth unknown") : share === null ? "no scan at this time" : `${(share * 100).toFixed(0)} %`;
      const value = show === "growth" ? (doubling ? 1 - (doubling - fast) / Math.max(slow - fast, 1e-9) : null) : show === "curve" ? null : share;
      const text = show === "growth" ? (doubling ? doubling.toFixed(doubling < 10 ? 1 : 0) : "–") : share === null ? "–" : (share * 100).toFixed(0);
      const cell = el("a", { class: "well", "data-place": `${row}/${column}`, tabindex: first ? 0 : -1, href: addressOf(plate.plate, name, { leave_out }), "aria-label": `${name}${well.condition ? `, ${well.condition}` : ""}: ${words}`, title: `${name}${well.condition ? ` ${well.condition}` : ""}: ${words}` },
        show === "curve" ? sparkline(well.hours, well.confluence, last) : plate.columns <= 24 ? text : "");
      first = false;
      if (value !== null) [cell.style.background, cell.style.color] = heat(value);
      if (well.growth.notes?.length) cell.classList.add("noted");
      made.push(cell);
    }
  }
  return made;
}

/** Let arrow keys walk over the wells, so that one Tab leads past all of them. @param {HTMLElement} grid @param {Plate} plate */
function walk(grid, plate) {
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const here = event.target instanceof HTMLElement ? event.target : null;
    if (!step || !here?.dataset.place) return;
    event.preventDefault();
    let [row, column] = here.dataset.place.split("/").map(Number);
    for (;;) {
      [row, column] = [row + step[0], column + step[1]];
      if (row < 0 || column < 0 || row >= plate.rows || column >= plate.columns) return;
      const next = grid.querySelector(`[data-place="${row}/${column}"]`);
      if (!(next instanceof HTMLElement)) continue; // an empty place
      here.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      return;
    }
  });
}

/** The shortest and the longest doubling time, in hours; infinite if no well grows. @param {Plate} plate */
function fastestAndSlowest(plate) {
  const times = Object.values(plate.wells).map((well) => well.growth.doubling_time_h).filter(Boolean);
  return [Math.min(...times), Math.max(...times)];
}

/** @param {string} show @param {Plate} plate */
function legendOf(show, plate) {
  if (show === "curve") return [el("span", {}, "each well from 0 to 100 % over the whole time")];
  const bar = el("span", { class: "scale", "aria-hidden": "true" });
  bar.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map((share) => heat(share)[0]).join(", ")})`;
  const noted = Object.values(plate.wells).some((well) => well.growth.notes?.length) ? [el("span", {}, "dashed border: see the note in the table")] : [];
  const [fast, slow] = fastestAndSlowest(plate);
  const growing = show === "growth";
  if (growing && !Number.isFinite(fast)) return [el("span", {}, "no well has a doubling time"), ...noted];
  return [el("span", {}, growing ? `${slow.toFixed(1)} h` : "0 %"), bar, el("span", {}, growing ? `${fast.toFixed(1)} h` : "100 %"), ...noted];
}

/** @param {Plate} plate */
function conditionsOf(plate) {
  if (!plate.conditions.length) return [];
  const series = plate.conditions.slice(0, MOST_CURVES).map((each) => ({ name: each.name, x: each.hours, y: each.mean, error: each.error }));
  const lines = keyOf(series);
  const banded = series.some(({ error }) => error.some((/** @type {number | null} */ half) => half !== null));
  return [el("h2", {}, "By condition"), curves(series, { label: "Mean confluence of each condition over time" }),
    banded ? el("p", { class: "quiet" }, "Shaded: the mean's standard error, where at least two wells were scanned.") : "",
    plate.conditions.length > series.length ? el("p", { class: "quiet" }, `The curves of the first ${series.length} of ${plate.conditions.length} conditions are drawn.`) : "",
    el("ul", { class: "key" }, plate.conditions.map((each, place) => {
      const { name } = each;
      const grows = each.doubling_time_h ? `doubles in ${each.doubling_time_h.toFixed(1)} h` : each.rate === 0 ? "no growth" : "growth unknown";
      const compared = each.relative_rate !== null && each.doubling_time_h && name !== plate.control;
      const relative = compared ? `, at ${fixed(each.relative_rate, 2)} times the rate of ${plate.control}` : "";
      return el("li", {}, lines[place]?.line, ` ${name}: ${grows}${relative}, ${counted(each.wells.length, "well")}${each.measured < each.wells.length ? `, ${each.measured} of them with a rate` : ""}`);
    }))];
}

/** @param {Plate} plate @param {State} state */
function wellTable(plate, { leave_out }) {
  const heads = ["Well", "Condition", "Doubles in, h", "95 % interval", "R²", "Lag, h", "Plateau, %", "Pages", "Note"];
  return [el("h2", {}, "Wells"), el("table", {}, el("thead", {}, el("tr", {}, heads.map((name, place) => el("th", { scope: "col", class: place > 1 && place < 8 ? "number" : "" }, name)))),
    el("tbody", {}, Object.entries(plate.wells).map(([name, well]) => {
      const { growth } = well;
      return el("tr", {}, el("th", { scope: "row" }, el("a", { href: addressOf(plate.plate, name, { leave_out }) }, name)), el("td", {}, well.condition),
        el("td", { class: "number" }, fixed(growth.doubling_time_h, 1)), el("td", { class: "number" }, intervalOf(growth)), el("td", { class: "number" }, fixed(growth.r2, 4)),
        el("td", { class: "number" }, fixed(growth.lag_h, 1)), el("td", { class: "number" }, growth.plateau === undefined ? "–" : (growth.plateau * 100).toFixed(0)),
        el("td", { class: "number" }, well.pages), el("td", {}, (growth.notes ?? []).map(inWords).join("; ")));
    }))),
    el("p", { class: "quiet" }, "Lag: hours from the plate's first scan until growth began, found by following the fitted curve back to the first confluence.")];
}

/** @param {any} growth */
export function intervalOf(growth) {
  if (growth.doubling_time_low_h === undefined) return "–";
  return `${fixed(growth.doubling_time_low_h, 1)} to ${growth.doubling_time_high_h === undefined ? "∞" : fixed(growth.doubling_time_high_h, 1)}`;
}

/** @param {Plate} plate */
function leftOut(plate) {
  if (!plate.left_out_count) return [];
  return [el("details", {}, el("summary", {}, `Left out: ${counted(plate.left_out_count, "page")}`), el("table", {}, el("tbody", {},
    plate.left_out.map(({ image, well, reason }) => el("tr", {}, el("td", {}, well), el("td", {}, reason), el("td", { class: "quiet" }, keyOfImage(image)))))),
    plate.left_out_count > plate.left_out.length ? el("p", { class: "quiet" }, `The first ${plate.left_out.length} are listed.`) : "")];
}
