// Charts in plain SVG, and colours that every eye tells apart.

import { svg } from "./dom.js";

// Okabe and Ito, without the yellow that vanishes on white; then dashes tell lines apart.
export const LINES = ["light-dark(#0072b2, #4da3dc)", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
// Five stops of cividis (Nuñez, Anderton and Renslow 2018), which grows evenly in brightness.
const CIVIDIS = [[0, 34, 78], [66, 78, 108], [124, 123, 120], [187, 173, 108], [254, 232, 56]];
const DARK_TEXT = 0.465; // from here on black is easier to read than white
// Hours between two marks of a time axis.
const STEPS = [0.25, 0.5, 1, 2, 4, 6, 12, 24, 48, 96, 168];
const MOST_STEPS = 7;
const BOX = { left: 46, right: 12, top: 10, bottom: 34 };

/**
 * A colour for a share from 0 to 1, and black or white for a text on it.
 * @param {number} share
 * @returns {[string, string]}
 */
export function heat(share) {
  const place = Math.max(0, Math.min(1, share)) * (CIVIDIS.length - 1);
  const at = Math.min(CIVIDIS.length - 2, Math.floor(place));
  const colour = CIVIDIS[at].map((from, part) => Math.round(from + (CIVIDIS[at + 1][part] - from) * (place - at)));
  return [`rgb(${colour.join(" ")})`, share > DARK_TEXT ? "#000" : "#fff"];
}

/**
 * @typedef {object} Series
 * @property {string} name
 * @property {(number | null)[]} x
 * @property {(number | null)[]} y
 * @property {(number | null)[]} [error] half the height of a band
 * @property {boolean} [points] dots alone, without a line
 * @property {string} [href] where a click on its name leads
 */

/**
 * Curves over time.
 * @param {Series[]} series
 * @param {{width?: number, height?: number, label: string, x?: string, top?: number, mark?: [number, number] | null}} options `mark`: a span of time to shade
 */
export function curves(series, { width = 640, height = 280, label, x = "hours", top = 1, mark = null }) {
  const hours = series.flatMap((each) => each.x).filter((value) => value !== null);
  const last = Math.max(...hours, 1e-9);
  /** @param {number} value */
  const across = (value) => BOX.left + (value / last) * (width - BOX.left - BOX.right);
  /** @param {number} value */
  const up = (value) => height - BOX.bottom - (Math.max(0, Math.min(top, value)) / top) * (height - BOX.top - BOX.bottom);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => share * top);
  const step = STEPS.find((each) => last / each <= MOST_STEPS) ?? 336;
  const steps = Array.from({ length: Math.floor(last / step + 1e-6) + 1 }, (_, place) => place * step);
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": label },
    mark ? svg("rect", { x: across(mark[0]), y: BOX.top, width: Math.max(1, across(mark[1]) - across(mark[0])), height: height - BOX.top - BOX.bottom, fill: "currentColor", opacity: 0.08 }) : null,
    ticks.map((value) => svg("path", { class: "axis", d: `M${BOX.left} ${up(value)}H${width - BOX.right}` })),
    ticks.map((value) => svg("text", { x: BOX.left - 6, y: up(value) + 4, "text-anchor": "end" }, `${Math.round(value * 100)} %`)),
    steps.map((value) => svg("text", { x: across(value), y: height - BOX.bottom + 15, "text-anchor": "middle" }, String(value))),
    svg("text", { x: width - BOX.right, y: height - 4, "text-anchor": "end" }, x),
    series.map((each, place) => drawn(each, place, across, up)));
}

/** @param {Series} series @param {number} place @param {(value: number) => number} across @param {(value: number) => number} up */
function drawn({ name, x, y, error, points }, place, across, up) {
  const colour = LINES[place % LINES.length];
  const known = x.map((hour, at) => [hour, y[at], error?.[at] ?? null]).filter(([hour, value]) => hour !== null && value !== null);
  const there = /** @type {[number, number, number | null][]} */ (known);
  const title = svg("title", {}, name);
  if (points) return svg("g", { fill: colour, opacity: 0.55 }, title, there.map(([hour, value]) => svg("circle", { cx: across(hour), cy: up(value), r: 2.4 })));
  const line = there.map(([hour, value], at) => `${at ? "L" : "M"}${across(hour).toFixed(1)} ${up(value).toFixed(1)}`).join("");
  const bands = runsOf(there).map((run) => {
    const upper = run.map(([hour, value, half]) => `${across(hour)} ${up(value + half)}`);
    const lower = run.toReversed().map(([hour, value, half]) => `${across(hour)} ${up(value - half)}`);
    return svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z`, fill: colour, stroke: colour, opacity: 0.16 });
  });
  return svg("g", {}, title, bands,
    svg("path", { class: "curve", d: line, stroke: colour, "stroke-dasharray": DASHES[Math.floor(place / LINES.length) % DASHES.length] }));
}

/**
 * The stretches of a curve along which the error is known. Where just one well was scanned there is none, and
 * a band that narrows to a line would look certain.
 * @param {[number, number, number | null][]} points
 */
function runsOf(points) {
  /** @type {[number, number, number][][]} */
  const runs = [];
  let open = false;
  for (const [hour, value, half] of points) {
    if (half !== null) {
      if (!open) runs.push([]);
      runs[runs.length - 1].push([hour, value, half]);
    }
    open = half !== null;
  }
  return runs;
}

/**
 * A curve as small as a well.
 * @param {(number | null)[]} x
 * @param {(number | null)[]} y
 * @param {number} last hour of the plate
 */
export function sparkline(x, y, last) {
  const line = x.map((hour, at) => {
    const [px, py] = [((hour ?? 0) / Math.max(last, 1e-9)) * 36 + 2, 38 - (y[at] ?? 0) * 36];
    return `${at ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`;
  }).join("");
  return svg("svg", { viewBox: "0 0 40 40", "aria-hidden": "true", class: "spark" }, svg("path", { d: line, fill: "none", stroke: "currentColor", "stroke-width": 2 }));
}

/**
 * The names of lines beside a chart.
 * @param {Series[]} series
 */
export function keyOf(series) {
  return series.map(({ name, points }, place) => {
    const colour = LINES[place % LINES.length];
    const line = svg("svg", { viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" },
      points ? svg("circle", { cx: 20, cy: 5, r: 3.5, fill: colour })
        : svg("path", { d: "M0 5H26", stroke: colour, "stroke-width": 3, "stroke-dasharray": DASHES[Math.floor(place / LINES.length) % DASHES.length] }));
    return { line, name };
  });
}
