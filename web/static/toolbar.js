// The tools above the image: zoom, contrast, opacity, and the pages of a stack.

import { el } from "./dom.js";

/** @typedef {import("./viewer.js").Viewer} Viewer */

/** @param {Viewer} viewer @param {Node} shown shows the scale */
export function zoomTool(viewer, shown) {
  return group("Zoom",
    el("button", { type: "button", title: "Smaller (−)", "aria-label": "Smaller", onclick: () => viewer.zoom(1 / 1.5) }, "−"),
    shown,
    el("button", { type: "button", title: "Larger (+)", "aria-label": "Larger", onclick: () => viewer.zoom(1.5) }, "+"),
    el("button", { type: "button", title: "Whole page (0)", onclick: () => viewer.fit() }, "Fit"),
    el("button", { type: "button", title: "One image pixel for each screen pixel (1)", onclick: () => viewer.zoom(1 / viewer.scale) }, "1:1"));
}

/** @param {Viewer} viewer */
export function contrastTool(viewer) {
  const { range, window: start, low, step } = viewer.image.described;
  /** A value as the file stores it. @param {number} value */
  const stored = (value) => Number((low + value * step).toPrecision(5));
  const shown = el("output", {}, `${stored(start[0])}–${stored(start[1])}`);
  const [dark, bright] = [0, 1].map((end) =>
    el("input", { type: "range", min: range[0], max: range[1], step: 1, value: start[end], "aria-label": end ? "White at" : "Black at", oninput: () => apply() }));
  const apply = () => {
    const [a, b] = [Number(dark.value), Number(bright.value)];
    viewer.setWindow([Math.min(a, b), Math.max(a, b, Math.min(a, b) + 1)]);
    shown.textContent = `${stored(viewer.window[0])}–${stored(viewer.window[1])}`;
  };
  const auto = el("button", { type: "button", title: "Reset the contrast", onclick: () => {
    [dark.value, bright.value] = start.map(String);
    apply();
  } }, "Auto");
  return group("Contrast", "Contrast", dark, bright, shown, auto);
}

/** @param {Viewer} viewer */
export function opacityTool(viewer) {
  const slider = el("input", { type: "range", min: 0.1, max: 1, step: 0.05, value: 1, "aria-label": "Opacity of the mask", oninput: () => {
    viewer.above.style.opacity = slider.value;
  } });
  const flicker = el("button", {
    type: "button", title: "Hold to see the image alone (space)",
    onpointerdown: () => viewer.hide(true), onpointerup: () => viewer.hide(false), onpointerleave: () => viewer.hide(false),
  }, "Flicker");
  return group("Mask", "Opacity", slider, flicker);
}

/** @param {{page: number}[]} pages of the job @param {number} at place of the one that is shown @param {(at: number) => void} turnTo */
export function stackTool(pages, at, turnTo) {
  /** @param {number} step @param {string} words @param {string} label */
  const near = (step, words, label) => el("button", { type: "button", "aria-label": label, title: label, disabled: !pages[at + step], onclick: () => turnTo(at + step) }, words);
  return group("Stack", near(-1, "‹", "Page before (page up)"), el("output", {}, `page ${pages[at].page} (${at + 1} of ${pages.length})`), near(1, "›", "Next page (page down)"));
}

/** @param {string} name @param {...(Node | string)} children */
export function group(name, ...children) {
  return el("fieldset", {}, el("legend", { class: "unseen" }, name), ...children);
}
