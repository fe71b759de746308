// Images, megapixels and estimated cost by day and group.

import { get } from "./api.js";
import { dollars, el, svg } from "./dom.js";

const BAR = { width: 640, height: 120, gap: 2, thick: 44 };
const DATE = 84; // how wide a date is

/** @typedef {{day: string, group: string, jobs: number, pages: number, megapixels: number, failed: number, rejected: number, cost: number}} Day */

/** @param {import("./router.js").Place} place */
export async function showSpending({ main, signal }) {
  main.append(el("h1", {}, "Spending"));
  /** @type {{days: Day[]}} */
  const { days } = await get("spending", signal);
  if (!days.length) {
    main.append(el("p", { class: "note" }, "No cost yet. Every image that is segmented adds to the cost of its day. ", el("a", { href: "/send" }, "Send images"), "."));
    return;
  }
  const total = days.reduce((sum, day) => sum + day.cost, 0);
  const images = days.reduce((sum, day) => sum + day.jobs, 0);
  main.append(el("p", { class: "big" }, dollars(total)), el("p", {}, `for ${images.toLocaleString("en")} jobs, as estimated from the functions' own time and memory. Storage, queues and the table are not counted.`),
    bars(days), table(days));
}

/** @param {Day[]} days */
function bars(days) {
  /** @type {Map<string, number>} */
  const byDay = new Map();
  for (const { day, cost } of days) byDay.set(day, (byDay.get(day) ?? 0) + cost);
  const shown = [...byDay].sort(([a], [b]) => (a < b ? -1 : 1)).slice(-60);
  const most = Math.max(...shown.map(([, cost]) => cost), 1e-12);
  const wide = Math.min(DATE, BAR.width / shown.length);
  const every = Math.ceil(DATE / wide); // so that the dates do not touch
  const thick = Math.min(BAR.thick, wide - BAR.gap);
  return svg("svg", { class: "chart", viewBox: `0 0 ${BAR.width} ${BAR.height + 20}`, width: BAR.width, role: "img", "aria-label": `Estimated cost by day, at most ${dollars(most)}` },
    shown.map(([day, cost], place) => svg("rect", { x: (place + 0.5) * wide - thick / 2, y: BAR.height - (cost / most) * BAR.height, width: thick, height: (cost / most) * BAR.height, class: "bar-of-day" }, svg("title", {}, `${day}: ${dollars(cost)}`))),
    shown.map(([day], place) => (place % every ? null : svg("text", { x: Math.max(DATE / 2, (place + 0.5) * wide), y: BAR.height + 15, "text-anchor": "middle" }, day))));
}

/** @param {Day[]} days */
function table(days) {
  const heads = ["Day (UTC)", "Group", "Jobs", "Pages", "Megapixels", "Failed", "Refused", "Estimated cost"];
  return el("table", {}, el("thead", {}, el("tr", {}, heads.map((name, place) => el("th", { scope: "col", class: place > 1 ? "number" : "" }, name)))),
    el("tbody", {}, days.map((day) => el("tr", {}, el("th", { scope: "row" }, day.day), el("td", {}, day.group || "–"),
      [day.jobs, day.pages, day.megapixels ? day.megapixels.toFixed(1) : "–", day.failed, day.rejected].map((value) => el("td", { class: "number" }, value.toLocaleString("en"))), el("td", { class: "number" }, dollars(day.cost))))));
}
