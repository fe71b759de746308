// The list of all jobs, kept up to date while a view looks at it.

import { ApiError, get, isLeft, pause, post } from "./api.js";

/**
 * A job as the gallery shows it; the fields are those of cytomask.web.catalogue.Entry.
 * @typedef {object} Job
 * @property {string} id
 * @property {string} status
 * @property {string} created
 * @property {string} updated
 * @property {string} [bucket]
 * @property {string} [key]
 * @property {string} [group]
 * @property {number} [confluence]
 * @property {number} [low]
 * @property {number} [high]
 * @property {string[]} [quality]
 * @property {number} [iou]
 * @property {number} [doubt]
 * @property {number} [cost]
 * @property {number} [pages]
 * @property {boolean} [has_mask]
 * @property {string} [error_code]
 * @property {string} [error]
 * @property {string} [score_status] FAILED or REJECTED
 * @property {string} [score_code]
 * @property {string} [score_error]
 * @property {string} [plate]
 * @property {string} [well]
 */

export const FINISHED = new Set(["SUCCEEDED", "REJECTED", "FAILED"]);
const QUICK = 2000; // milliseconds between looks while something is under way
const SLOW = 15000;
// Milliseconds until scores are looked up again: a ground truth may come or be replaced at any time.
const FRESH = { few: 15000, many: 600000 };
const SCORES_AT_ONCE = 200;
export const FEW = 1000; // jobs whose scores are looked up unasked

/** @type {Map<string, Job>} */
export const jobs = new Map();
let revision = 0;
let hurryUntil = 0;
/** When the score of each job was looked up last, in milliseconds since 1970. @type {Map<string, number>} */
const lookedUp = new Map();
/** Ends the pause between two looks. */
let wake = () => {};

/** Fetch what changed; returns whether anything did. @param {AbortSignal} signal */
async function refresh(signal) {
  const answer = await get(`jobs?revision=${revision}`, signal);
  for (const job of answer.jobs) jobs.set(job.id, job);
  revision = answer.revision;
  return answer.jobs.length > 0;
}

/** Look more often for a while: something was sent. */
export function hurry() {
  hurryUntil = Date.now() + 60000;
  wake();
}

/**
 * Keep the list up to date until the view is left.
 * @param {AbortSignal} signal
 * @param {() => void} changed
 */
export async function follow(signal, changed) {
  let first = true;
  while (!signal.aborted) {
    try {
      if ((await refresh(signal)) || first) changed();
      first = false;
    } catch (error) {
      if (isLeft(error)) return;
      const passing = error instanceof ApiError && (error.status === 0 || error.status === 401); // the page says so, and it ends
      if (first && !passing) throw error;
    }
    const busy = first || Date.now() < hurryUntil || [...jobs.values()].some((job) => !FINISHED.has(job.status));
    try {
      const hurried = new Promise((resolve) => {
        wake = () => resolve(undefined);
      });
      await Promise.race([pause(document.hidden ? SLOW : busy ? QUICK : SLOW, signal), hurried]);
    } catch {
      return;
    }
  }
}

/** The jobs whose scores were not looked up lately. @param {Job[]} wanted */
export function unscored(wanted) {
  const since = Date.now() - (wanted.length > FEW ? FRESH.many : FRESH.few);
  return wanted.filter((job) => job.has_mask && (lookedUp.get(job.id) ?? 0) < since);
}

/**
 * Look up the scores of some of these jobs, where they are not fresh; returns whether any changed.
 * @param {Job[]} wanted
 * @param {AbortSignal} [signal]
 */
export async function fetchScores(wanted, signal) {
  const ids = unscored(wanted).slice(0, SCORES_AT_ONCE).map((job) => job.id);
  if (!ids.length) return false;
  const answer = await post("scores", { ids }, signal);
  for (const id of ids) lookedUp.set(id, Date.now());
  for (const job of answer.jobs) jobs.set(job.id, job);
  return answer.jobs.length > 0;
}

/** Look every job's score up anew: a view begins, or a ground truth was saved. */
export function forgetScores() {
  lookedUp.clear();
}

/**
 * The name of a job's image, without its folders.
 * @param {Job} job
 */
export function nameOf(job) {
  return job.key ? (job.key.split("/").pop() ?? job.key) : "a message that names no image";
}

/**
 * The folders of a job's image; empty at the top.
 * @param {Job} job
 */
export function folderOf(job) {
  const key = job.key ?? "";
  return key.includes("/") ? key.slice(0, key.lastIndexOf("/")) : "";
}

/** The jobs of the gallery in the order that was shown last, for the next and the previous one. @type {string[]} */
export const order = JSON.parse(sessionStorage.getItem("order") ?? "[]");

/** @param {string[]} ids */
export function keepOrder(ids) {
  order.splice(0, order.length, ...ids);
  sessionStorage.setItem("order", JSON.stringify(ids.slice(0, 20000)));
}
