import { el } from "./dom.js";

/** @param {import("./router.js").Place} place */
export function showPlates({ main }) {
  main.append(el("p", { class: "note" }, "soon"));
}
