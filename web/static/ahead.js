// What a view of a page asks the server for first, asked for before the view is opened where it can be guessed.

import { get } from "./api.js";
import { Layer } from "./layers.js";

const MOST = 4; // pages that are kept
const FRESH = 30000; // milliseconds

/**
 * The calls that a page's view begins with, all under way at once. Each ends with a value or an Error.
 * @typedef {object} Begun
 * @property {number} page of the layers
 * @property {number} at milliseconds since the browser started
 * @property {AbortController} ending ends the calls, and those of the layers
 * @property {Promise<any>} job
 * @property {Promise<any>} result
 * @property {Promise<any>} truth
 * @property {Promise<Layer | Error>} image
 * @property {Promise<Layer | Error>} mask
 */

/** @type {Map<string, Begun>} */
const kept = new Map();

/** @param {string} id @param {number} page */
function begin(id, page) {
  const ending = new AbortController();
  const { signal } = ending;
  /** @template Value @param {Promise<Value>} promise @returns {Promise<Value | Error>} */
  const settled = (promise) => promise.catch((error) => error);
  return {
    page, at: performance.now(), ending,
    result: settled(get(`jobs/${id}/result`, signal)),
    image: settled(Layer.open(id, page, "image", signal)),
    mask: settled(Layer.open(id, page, "mask", signal)),
    job: settled(get(`jobs/${id}`, signal)),
    truth: settled(get(`jobs/${id}/truth`, signal)),
  };
}

/**
 * Ask for a page that is likely to be shown next.
 * @param {string} id
 * @param {number} [page]
 */
export function askAhead(id, page = 0) {
  const key = `${id}/${page}`;
  const found = kept.get(key);
  if (found && performance.now() - found.at < FRESH) return;
  forget(key);
  kept.set(key, begin(id, page));
  for (const old of kept.keys()) {
    if (kept.size <= MOST) break;
    forget(old);
  }
}

/**
 * The calls of a page: those that are under way, or new ones. They end with the view.
 * @param {string} id
 * @param {number} page
 * @param {AbortSignal} signal of the view
 */
export function take(id, page, signal) {
  const key = `${id}/${page}`;
  const found = kept.get(key);
  kept.delete(key);
  const fresh = found && performance.now() - found.at < FRESH ? found : begin(id, page);
  if (found && found !== fresh) found.ending.abort();
  signal.addEventListener("abort", () => fresh.ending.abort());
  return fresh;
}

/** Forget what was asked for: something was changed. */
export function forgetAll() {
  for (const key of [...kept.keys()]) forget(key);
}

/** @param {string} key */
function forget(key) {
  kept.get(key)?.ending.abort();
  kept.delete(key);
}
