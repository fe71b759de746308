// One well: its curve, how it grew, and a film strip of its pages.

import { curves, keyOf } from "./charts.js";
import { counted, el, fixed, hoursOf } from "./dom.js";
import { keepOrder } from "./jobs.js";
import { fetchPlate, intervalOf } from "./plate.js";
import { addressOf } from "./plates.js";
import { entitle, note, trouble } from "./router.js";
import { thumbnail } from "./thumbnail.js";
import { inWords, wordsOf } from "./words.js";

const PICTURE = { width: 150, height: 112 };

/** @param {import("./router.js").Place} place */
export async function showWell({ main, parts, query, signal }) {
  const [name, wellName] = parts;
  entitle(`${wellName}, ${name}`);
  const plate = await fetchPlate(name, query, signal);
  const well = plate.wells[wellName];
  const asked = { leave_out: query.get("leave_out") ?? "" };
  main.append(el("p", {}, el("a", { href: "/plates" }, "Plates"), " / ", el("a", { href: addressOf(name, "", asked) }, name)), el("h1", {}, `Well ${wellName}`));
  if (!well) {
    main.append(trouble(`The plate has no well ${wellName}.`));
    return;
  }
  const { growth } = well;
  const pages = plate.pages.filter((page) => page.well === wellName);
  const sites = [...new Set(pages.map((page) => page.site))];
  /** @type {import("./charts.js").Series[]} */
  const series = [{ name: "the well, its sites pooled by area", x: well.hours, y: well.confluence }];
  if (sites.length > 1) {
    for (const site of sites) {
      const own = pages.filter((page) => page.site === site);
      series.push({ name: `site ${site || "–"}`, x: own.map((page) => page.hours), y: own.map((page) => page.confluence), points: true });
    }
  }
  const window = growth.from_h === undefined ? null : /** @type {[number, number]} */ ([growth.from_h, growth.to_h]);
  const chosen = sites.includes(query.get("site") ?? "") ? (query.get("site") ?? "") : sites[0];
  const strip = el("div", { class: "strip", role: "group", "aria-label": "Pages over time", tabindex: 0 });
  const pick = el("select", { id: "site" }, sites.map((site) => el("option", { value: site, selected: site === chosen }, site || "–")));
  main.append(
    el("p", { class: "quiet" }, `${well.condition ? `Condition ${well.condition}; ` : ""}${counted(pages.length, "page")}, ${counted(sites.length, "site")}${well.flagged ? `; ${counted(well.flagged, "page")} used despite a warning` : ""}.`),
    el("p", { class: "big" }, growth.doubling_time_h ? `doubles in ${growth.doubling_time_h.toFixed(1)} h` : "no doubling time"),
    ...(growth.notes ?? []).map((/** @type {string} */ text) => el("p", { class: "note warn" }, inWords(text))),
    el("div", { class: "row top" }, el("div", {}, curves(series, { label: `Confluence of well ${wellName} over time, in percent`, mark: window }), el("ul", { class: "key" }, keyOf(series).map(({ line, name: words }) => el("li", {}, line, ` ${words}`)), window ? el("li", { class: "quiet" }, "shaded: the scans that the doubling time is fitted to") : "")),
      el("dl", { class: "facts" }, facts(growth).flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]))),
    el("p", { class: "quiet" }, "Confluence is area, not number: cells that spread or shrink change it without dividing."),
    el("h2", {}, "Film strip"), sites.length > 1 ? el("label", {}, "Site ", pick) : "", strip);

  const draw = () => {
    const own = pages.filter((page) => page.site === pick.value);
    keepOrder([...new Set(own.map((page) => page.job).filter(Boolean))]);
    strip.replaceChildren(...own.map((page) => {
      const words = `${hoursOf(page.hours)}, ${(page.confluence * 100).toFixed(0)} %${page.quality.length ? `, ${page.quality.map(wordsOf).join(", ")}` : ""}`;
      return el("a", { href: `/images/${page.job}${page.page === null || page.page === undefined ? "" : `/${page.page}`}` }, thumbnail(page.job, PICTURE, page.page), words);
    }));
  };
  pick.addEventListener("change", () => {
    note({ site: pick.value, ...asked });
    draw();
  });
  draw();
}

/** @param {any} growth @returns {[string, string][]} */
function facts(growth) {
  /** @type {[string, string][]} */
  const all = [
    ["95 % interval", `${intervalOf(growth)} h`], ["R²", fixed(growth.r2, 4)], ["Fitted to the scans", growth.from_h === undefined ? "–" : `from ${hoursOf(growth.from_h)} to ${hoursOf(growth.to_h)}`],
    ["Log-linear fit", growth.plain_doubling_time_h === undefined ? "–" : `${fixed(growth.plain_doubling_time_h, 1)} h`],
    ["Growth began", growth.lag_h === undefined ? "–" : growth.lag_h < 0.05 ? "at the first scan" : `${fixed(growth.lag_h, 1)} h after the first scan`], ["Half covered after", growth.half_h === undefined ? "–" : `${fixed(growth.half_h, 1)} h`],
    ["80 % covered after", growth.eighty_h === undefined ? "–" : `${fixed(growth.eighty_h, 1)} h`], ["Plateau", growth.plateau === undefined ? "–" : `${(growth.plateau * 100).toFixed(0)} %`],
    ["Area under the curve", growth.area_h === undefined ? "–" : `${fixed(growth.area_h, 1)} h at full confluence`],
  ];
  return all.filter(([, value]) => !value.startsWith("–"));
}
