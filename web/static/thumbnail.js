// The small picture of a job, and words in its place where it cannot be shown.

import { el } from "./dom.js";

export const NO_PICTURE = "picture not available"; // the result, the mask or the image may be gone; the job's page says which

/** @param {string} job its id @param {{width: number, height: number}} size in CSS pixels @param {number | null} [page] the first if left out */
export function thumbnail(job, { width, height }, page) {
  const query = page === undefined || page === null ? "" : `?page=${page}`;
  const picture = el("img", { src: `/api/jobs/${job}/thumbnail${query}`, alt: "", loading: "lazy", width, height });
  const frame = el("span", { class: "picture" }, picture);
  picture.addEventListener("error", () => frame.replaceChildren(el("span", { class: "quiet" }, NO_PICTURE)));
  return frame;
}
