// The first calls of an image's view, sent before the view is opened where the next image can be guessed.

import { get, pause } from "./api.js";
import { Layer } from "./layers.js";

const MOST = 4; // pages that are kept
const FRESH = 30000; // milliseconds
const DRAWN = 60; // milliseconds in which a page that has come is drawn

/**
 * The calls that a page's view begins with. Each ends with a value or an Error. Those that are drawn are under way
 * at once; the row and the ground truth, for which S3 is asked for many names, follow them.
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
  const result = settled(get(`jobs/${id}/result`, signal));
  const image = settled(Layer.open(id, page, "image", signal));
  const mask = settled(Layer.open(id, page, "mask", signal));
  /** @param {string} path */
  const later = async (path) => {
    await Promise.all([result, image, mask]);
    await pause(DRAWN, signal);
    return get(path, signal);
  };
  return { page, at: performance.now(), ending, result, image, mask, job: settled(later(`jobs/${id}`)), truth: settled(later(`jobs/${id}/truth`)) };
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
 * Return the calls of a page, those under way or new ones. They end with the view.
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

/** Forget everything that was fetched ahead, because something changed. */
export function forgetAll() {
  for (const key of [...kept.keys()]) forget(key);
}

/** @param {string} key */
function forget(key) {
  kept.get(key)?.ending.abort();
  kept.delete(key);
}
