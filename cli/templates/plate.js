"use strict";
// Draws the page from the JSON beside it. Names are set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
// Cividis (Nuñez et al. 2018): even to every eye, colour-blind or not.
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
// Okabe and Ito's colours, each with a dash of its own.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#7a7a7a", "#e69f00"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2", "8 2 2 2 2 2"];
const $ = (id) => document.getElementById(id);
const names = Object.keys(data.wells);
let selected = null;
let scan = Math.max(data.scans.length - 1, 0);

/** Make an element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function mix(low, high, share) {
  const parts = [1, 3, 5].map((at) => {
    const a = parseInt(low.slice(at, at + 2), 16), b = parseInt(high.slice(at, at + 2), 16);
    return Math.round(a + (b - a) * share);
  });
  return parts;
}

/** Colour and readable ink for a share of 0 to 1. */
function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const index = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const rgb = mix(CIVIDIS[index], CIVIDIS[index + 1], at - index);
  const light = 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
  return { back: `rgb(${rgb})`, ink: light > 110 ? "#000" : "#fff" };
}

const rowName = (row) => (row < 26 ? String.fromCharCode(65 + row) : "A" + String.fromCharCode(39 + row));
const wellName = (row, column) => `${rowName(row)}${String(column + 1).padStart(2, "0")}`;
const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`);
/** The hour of a scan, to a hundredth: three digits would make one of 100.5 h and 101 h. */
const moment = (hour) => `${Number(hour.toFixed(2))} h`;
const hours = (value) => (value === null || value === undefined ? "–" : `${Number(value.toPrecision(3))} h`);

/** Lay the wells out as the plate has them; `cell` makes the button of a well that has images. */
function layOut(place, cell, kind) {
  place.style.gridTemplateColumns = `1.6rem repeat(${data.columns}, minmax(0, 1fr))`;
  const cells = [make("span", { class: "head" })];
  for (let column = 0; column < data.columns; column++) cells.push(make("span", { class: "head" }, String(column + 1)));
  for (let row = 0; row < data.rows; row++) {
    cells.push(make("span", { class: "head" }, rowName(row)));
    for (let column = 0; column < data.columns; column++) {
      const name = wellName(row, column);
      cells.push(data.wells[name] ? cell(name) : make("span", { class: `${kind} none`, title: `${name}: no image` }));
    }
  }
  place.replaceChildren(...cells);
}

function chooser(kind, name, ...children) {
  const button = make("button", { class: kind, type: "button", "data-well": name, "aria-pressed": "false" }, ...children);
  button.addEventListener("click", () => select(name));
  return button;
}

function measureOf(name, what) {
  const well = data.wells[name];
  if (what === "confluence") return well.c[scan] ?? null;
  return well.g[what] ?? null;
}

/** Colour the heat map: confluence at the slider's scan, or a measure of the whole curve. */
function colour() {
  const what = $("measure").value;
  const values = names.map((name) => measureOf(name, what)).filter((value) => value !== null);
  const fixed = what === "confluence" || what === "plateau";
  const low = fixed ? 0 : Math.min(...values), high = fixed ? 1 : Math.max(...values);
  const show = fixed ? percent : hours;
  for (const button of document.querySelectorAll("#heat button")) {
    const name = button.dataset.well, well = data.wells[name], value = measureOf(name, what);
    const looks = value === null ? null : shade(high > low ? (value - low) / (high - low) : 0.5);
    button.style.background = looks ? looks.back : "var(--empty)";
    button.style.color = looks ? looks.ink : "var(--faint)";
    const shown = value === null ? "no value" : show(value);
    button.textContent = data.columns > 12 ? "" : value === null ? "–" : fixed ? Math.round(100 * value) : Number(value.toPrecision(2));
    button.title = `${name}${well.k ? `, ${well.k}` : ""}: ${shown}${well.n.length ? `. ${well.n.join(". ")}` : ""}`;
    button.setAttribute("aria-label", button.title);
  }
  $("low").textContent = values.length ? show(low) : "";
  $("high").textContent = values.length ? show(high) : "";
  $("hour").textContent = data.scans.length ? moment(data.scans[scan]) : "no scan";
  $("time").disabled = what !== "confluence";
}

function scale(width, height, pad, top) {
  const first = data.scans[0] ?? 0, last = data.scans[data.scans.length - 1] ?? 1;
  const x = (hour) => pad.left + ((hour - first) / Math.max(last - first, 1e-9)) * (width - pad.left - pad.right);
  const y = (share) => height - pad.bottom - (share / top) * (height - pad.top - pad.bottom);
  return { x, y };
}

/** A path through the values that are there; with round caps, a single value is a dot. */
function path(values, at) {
  let line = "", pen = "M";
  values.forEach((value, index) => {
    if (value === null) return;
    line += `${pen}${at.x(data.scans[index]).toFixed(1)} ${at.y(value).toFixed(1)}`;
    pen = "L";
  });
  return line && `${line}h0`;
}

function axes(svg, width, height, pad, at, top) {
  const steps = top > 0.5 ? 0.25 : 0.1;
  for (let share = 0; share <= top + 1e-9; share += steps) {
    svg.append(make("svg:line", { x1: pad.left, x2: width - pad.right, y1: at.y(share), y2: at.y(share), stroke: "var(--grid)" }));
    svg.append(make("svg:text", { x: pad.left - 6, y: at.y(share) + 4, "text-anchor": "end" }, `${Math.round(100 * share)} %`));
  }
  const last = data.scans[data.scans.length - 1] ?? 0, first = data.scans[0] ?? 0;
  const step = [1, 2, 4, 6, 12, 24, 48, 96, 168].find((each) => (last - first) / each <= 8) ?? 336;
  for (let hour = Math.ceil(first / step) * step; hour <= last; hour += step) {
    svg.append(make("svg:text", { x: at.x(hour), y: height - 6, "text-anchor": "middle" }, `${hour} h`));
  }
}

function drawMinis() {
  layOut($("minis"), (name) => {
    const well = data.wells[name], at = scale(100, 80, { left: 3, right: 3, top: 4, bottom: 4 }, 1);
    const svg = make("svg:svg", { viewBox: "0 0 100 80", preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(make("svg:path", { d: path(well.c, at), fill: "none", stroke: "var(--accent)", "stroke-width": 2.5, "stroke-linecap": "round", "vector-effect": "non-scaling-stroke" }));
    const button = chooser("mini", name, svg);
    button.title = `${name}${well.k ? `, ${well.k}` : ""}: doubling time ${hours(well.g.doubling_time_h)}`;
    button.setAttribute("aria-label", button.title);
    return button;
  }, "mini");
}

/** The selected well: its curve with sites, window and fit, what was measured, and its film strip. */
function drawWell() {
  const well = data.wells[selected], width = 640, height = 300;
  const pad = { left: 46, right: 12, top: 10, bottom: 24 }, at = scale(width, height, pad, 1);
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `confluence of ${selected} over time` });
  if (well.g.from_h !== null && well.g.from_h !== undefined) {
    const x = at.x(well.g.from_h);
    svg.append(make("svg:rect", { x, width: at.x(well.g.to_h) - x, y: height - pad.bottom - 5, height: 5, fill: "var(--fit)" }));
  }
  axes(svg, width, height, pad, at, 1);
  Object.values(well.s).forEach((values, index) => {
    svg.append(make("svg:path", { d: path(values, at), fill: "none", stroke: "var(--faint)", "stroke-dasharray": DASHES[(index + 1) % DASHES.length], opacity: 0.8 }));
  });
  svg.append(make("svg:path", { d: path(well.c, at), fill: "none", stroke: "var(--accent)", "stroke-width": 2 }));
  well.c.forEach((value, index) => {
    if (value !== null) svg.append(make("svg:circle", { cx: at.x(data.scans[index]), cy: at.y(value), r: 2.6, fill: "var(--accent)" }));
  });
  if (data.scans.length) {
    svg.append(make("svg:line", { x1: at.x(data.scans[scan]), x2: at.x(data.scans[scan]), y1: pad.top, y2: height - pad.bottom, stroke: "var(--fit)", "stroke-dasharray": "3 3" }));
  }
  const facts = make("dl");
  for (const [label, value] of [
    ["doubling time", hours(well.g.doubling_time_h)],
    ["95 % interval", well.g.doubling_time_low_h ? `${hours(well.g.doubling_time_low_h)} to ${well.g.doubling_time_high_h ? hours(well.g.doubling_time_high_h) : "∞"}` : "–"],
    ["straight line, 8 to 60 %", hours(well.g.plain_doubling_time_h)],
    ["R² in the window", well.g.r2 ? well.g.r2.toFixed(4) : "–"],
    ["fitted to the scans (bar below the curve)", well.g.from_h !== null && well.g.from_h !== undefined ? `${moment(well.g.from_h)} to ${moment(well.g.to_h)}` : "–"],
    ["growth began", well.g.lag_h !== null && well.g.lag_h < 0.05 ? "at the first scan" : hours(well.g.lag_h)], ["half full at", hours(well.g.half_h)], ["80 % full at", hours(well.g.eighty_h)],
    ["plateau", percent(well.g.plateau)], ["pages", String(well.p)],
  ]) facts.append(make("div", {}, make("dt", {}, label), make("dd", {}, value)));
  const parts = [make("h2", {}, `Well ${selected}${well.k ? `, ${well.k}` : ""}`), svg, facts];
  if (Object.keys(well.s).length) parts.push(make("p", { class: "small" }, `Solid: all sites by area. Dashed: sites ${Object.keys(well.s).join(", ")}.`));
  if (well.n.length) parts.push(make("ul", { class: "notes" }, ...well.n.map((note) => make("li", {}, note))));
  if (well.f.length) {
    const film = make("div", { class: "film", role: "group", "aria-label": `film strip of ${selected}` });
    for (const frame of well.f) film.append(make("figure", {}, make("img", { src: frame.src, alt: `${selected} at ${moment(frame.h)}, ${percent(frame.c)} covered, mask outlined`, width: frame.w, height: frame.t }), make("figcaption", {}, `${moment(frame.h)}, ${percent(frame.c)}`)));
    parts.push(make("h3", {}, "Film strip"), film, make("p", { class: "small" }, "Orange: the outline of the mask."));
  }
  $("well").replaceChildren(...parts);
}

function drawConditions() {
  if (!data.conditions.length) return;
  const width = 900, height = 360, pad = { left: 46, right: 12, top: 10, bottom: 24 }, at = scale(width, height, pad, 1);
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "mean confluence by condition over time" });
  axes(svg, width, height, pad, at, 1);
  const keys = [];
  data.conditions.forEach((condition, index) => {
    const colour = COLOURS[index % COLOURS.length], dash = DASHES[(index + Math.floor(index / COLOURS.length)) % DASHES.length];
    let up = [], down = [];
    const drawBand = () => {
      if (up.length) svg.append(make("svg:path", { class: "band", d: `M${up.join("L")}L${down.join("L")}Z`, fill: colour, stroke: colour, opacity: 0.18 }));
      up = [], down = [];
    };
    condition.m.forEach((mean, each) => {
      const half = condition.e[each];
      if (mean !== null && half === null) drawBand(); // one well alone has no error: a band of no width would look certain
      if (mean === null || half === null) return;
      const x = at.x(data.scans[each]).toFixed(1);
      up.push(`${x} ${at.y(Math.min(mean + half, 1)).toFixed(1)}`);
      down.unshift(`${x} ${at.y(Math.max(mean - half, 0)).toFixed(1)}`);
    });
    drawBand();
    svg.append(make("svg:path", { d: path(condition.m, at), fill: "none", stroke: colour, "stroke-width": data.scans.length > 1 ? 2.2 : 6, "stroke-linecap": data.scans.length > 1 ? null : "round", "stroke-dasharray": dash }));
    const line = make("svg:svg", { width: 34, height: 10, "aria-hidden": "true" }, make("svg:line", { x1: 0, x2: 34, y1: 5, y2: 5, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash }));
    keys.push(make("span", { class: "key" }, line, `${condition.name} (n = ${condition.wells.length})`));
  });
  $("conditions").replaceChildren(make("div", {}, ...keys), svg);
}

function select(name) {
  selected = name;
  for (const button of document.querySelectorAll("button[data-well]")) {
    button.setAttribute("aria-pressed", String(button.dataset.well === name));
  }
  history.replaceState(null, "", `#${name}`);
  drawWell();
}

/** Arrow keys walk over the plate. */
function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -data.columns, ArrowDown: data.columns }[event.key];
  if (!step || !event.target.dataset.well) return;
  const all = [];
  for (let row = 0; row < data.rows; row++) for (let column = 0; column < data.columns; column++) all.push(wellName(row, column));
  let at = all.indexOf(event.target.dataset.well) + step;
  while (at >= 0 && at < all.length && !data.wells[all[at]]) at += step;
  const next = event.currentTarget.querySelector(`[data-well="${all[at]}"]`);
  if (next) { event.preventDefault(); next.focus(); select(next.dataset.well); }
}

if (names.length) {
  layOut($("heat"), (name) => {
    const button = chooser("well", name);
    if (data.wells[name].n.length) button.classList.add("doubt");
    return button;
  }, "well");
  drawMinis();
  drawConditions();
  const bar = $("scale").getContext("2d");
  for (let x = 0; x < 200; x++) { bar.fillStyle = shade(x / 199).back; bar.fillRect(x, 0, 1, 12); }
  $("time").max = String(Math.max(data.scans.length - 1, 0));
  $("time").value = String(scan);
  $("time").addEventListener("input", () => { scan = Number($("time").value); colour(); if (selected) drawWell(); });
  $("measure").addEventListener("change", colour);
  let timer = null;
  $("play").addEventListener("click", () => {
    if (timer) { clearInterval(timer); timer = null; $("play").textContent = "Play"; return; }
    $("play").textContent = "Stop";
    timer = setInterval(() => { scan = (scan + 1) % data.scans.length; $("time").value = String(scan); colour(); }, 250);
  });
  for (const place of ["heat", "minis"]) $(place).addEventListener("keydown", walk);
  colour();
  const asked = location.hash.slice(1);
  select(data.wells[asked] ? asked : names[0]);
}
