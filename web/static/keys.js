// The keys of the image's view, and the list that explains them.

import { el } from "./dom.js";

/** @typedef {Record<string, () => void>} Keys */

/** @type {[string, string][]} */
const LIST = [
  ["n, p", "next and previous image"],
  ["page down, page up", "next and previous page of a stack"],
  ["arrows", "move the image (while it has the focus)"],
  ["+, −, 0, 1", "larger, smaller, whole page, one to one"],
  ["o, f, g, d, i", "outline, filled, ground truth, disagreement, image only"],
  ["space", "hold: the image alone"],
  ["c", "start correcting"],
  ["b, e, h, l, m", "while correcting: brush, eraser, fill, lasso, move the page"],
  ["[, ]", "smaller, larger brush"],
  ["arrows, space", "while correcting: move the tool, use it; shift moves ten pixels"],
  ["enter, escape", "close the lasso, discard it"],
  ["ctrl z, ctrl shift z", "undo, redo"],
  ["ctrl s", "save as ground truth"],
];

/**
 * Listen to keys while the view is shown, but not while the user types.
 * @param {AbortSignal} signal
 * @param {(event: KeyboardEvent) => boolean} act whether the key was used
 */
export function keyed(signal, act) {
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog")) return; // its own keys alone work
    const target = event.target instanceof HTMLElement ? event.target : null;
    const typing = target?.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
    const sliding = target?.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key);
    const pressing = target?.matches("button, a, summary") && (event.key === " " || event.key === "Enter");
    if (typing || sliding || pressing || event.altKey) return;
    if (act(event)) event.preventDefault();
  }, { signal });
}

/** Show the list of keys. */
export function shortcuts() {
  const close = el("button", { type: "button", class: "main", onclick: () => dialog.close() }, "Close");
  const dialog = el("dialog", { "aria-label": "Keys" }, el("h2", {}, "Keys"),
    el("table", {}, el("tbody", {}, LIST.map(([key, words]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, words))))), close);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
