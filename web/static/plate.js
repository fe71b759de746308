import { el } from "./dom.js";

/** @param {import("./router.js").Place} place */
export function showPlate({ main }) {
  main.append(el("p", { class: "note" }, "soon"));
}
