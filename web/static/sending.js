// Files on their way to the input bucket. They go on while other views are shown.

import { about } from "./about.js";
import { ApiError, post } from "./api.js";
import { el, fixed, sentenceOf } from "./dom.js";
import { hurry, jobs } from "./jobs.js";
import { thumbnail } from "./thumbnail.js";
import { Unreadable, upload } from "./upload.js";
import { wordsOf } from "./words.js";

const AT_ONCE = 3;
const PICTURE = { width: 96, height: 72 };

/**
 * @typedef {object} Sending a file on its way
 * @property {File} file
 * @property {string} key
 * @property {Record<string, unknown>} request what it asks beyond a plain upload
 * @property {HTMLLIElement} line
 * @property {HTMLElement} said
 * @property {HTMLProgressElement} progress
 * @property {HTMLElement} actions
 * @property {number} sentAt milliseconds since 1970; 0 before it was sent
 * @property {string} job the id of the job that was asked for, if any
 * @property {boolean} stored whether the file is in the bucket
 */

/** One line for each file, with its progress and what became of it. */
export const list = el("ul", { class: "files", "aria-label": "Files", "aria-live": "polite" });

/** @type {Sending[]} */
const waiting = [];
/** @type {Sending[]} */
const sent = [];
let active = 0;

addEventListener("beforeunload", (event) => {
  if (active) event.preventDefault(); // the browser asks whether to leave
});

function next() {
  while (active < AT_ONCE && waiting.length) void transfer(/** @type {Sending} */ (waiting.shift()), false);
}

/** @param {Sending} one @param {boolean} replace */
async function transfer(one, replace) {
  const { file, key, request, said, progress, actions } = one;
  active += 1;
  actions.replaceChildren();
  progress.hidden = false;
  try {
    if (!one.stored) {
      said.textContent = "sending …";
      one.sentAt = Date.now();
      const plateMap = await upload(file, key, replace, (share) => {
        progress.value = share;
      });
      if (plateMap) {
        progress.remove();
        said.textContent = "plate map in the bucket; its conditions show on the plate's page";
        sayNoMask(one.line);
        return;
      }
      one.stored = true;
    }
    progress.remove();
    said.textContent = "in the bucket; the mask follows";
    if (Object.keys(request).length) {
      const asked = await post("jobs", { image: `s3://${about.buckets.images}/${key}`, ...request });
      one.job = asked.job_id;
    }
    sent.push(one);
    hurry();
    look();
  } catch (error) {
    progress.hidden = true;
    said.textContent = (one.stored ? "the image is in the bucket and gets its usual mask, but your settings do not work: " : "") + sentenceOf(error);
    said.className = "bad";
    const again = (/** @type {boolean} */ over) => () => {
      said.className = "";
      void transfer(one, over);
    };
    // A session that ended goes on once its new address is opened.
    const lasting = error instanceof Unreadable || (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 401);
    if (error instanceof ApiError && error.code === "IMAGE_EXISTS") {
      actions.append(el("button", { type: "button", onclick: again(true) }, "Replace"), " ", el("button", { type: "button", onclick: () => one.line.remove() }, "Skip"));
    } else if (!lasting) {
      actions.append(el("button", { type: "button", onclick: again(replace) }, "Try again"));
    } else if (!one.stored) sayNoMask(one.line);
  } finally {
    active -= 1;
    next();
  }
}

/** Show what became of the images that were sent. */
export function look() {
  for (const one of sent) {
    const found = jobOf(one);
    if (!found) continue;
    const { said, line } = one;
    const link = el("a", { href: `/images/${found.id}` }, "Open");
    if (found.status === "SUCCEEDED" && line.dataset.job !== found.id) {
      line.dataset.job = found.id;
      said.className = "good";
      said.textContent = `confluence ${fixed((found.confluence ?? 0) * 100, 1)} %`;
      line.querySelector(".picture")?.replaceWith(thumbnail(found.id, PICTURE));
      one.actions.replaceChildren(link);
    } else if (found.status === "REJECTED" || found.status === "FAILED") {
      said.className = "bad";
      said.textContent = `${wordsOf(found.status)}: ${found.error ?? ""}`;
      sayNoMask(line);
      one.actions.replaceChildren(link);
    } else if (found.status !== "SUCCEEDED") {
      said.textContent = wordsOf(found.status);
    }
  }
}

/** @param {Sending} one */
function jobOf(one) {
  if (one.job) return jobs.get(one.job);
  const after = new Date(one.sentAt - 5000).toISOString(); // the clocks of two machines differ a little
  const mine = [...jobs.values()].filter((job) => job.key === one.key && job.bucket === about.buckets.images && job.updated >= after);
  return mine.sort((a, b) => (a.created < b.created ? 1 : -1))[0];
}

/**
 * Send files.
 * @param {{file: File, path: string}[]} chosen
 * @param {string} folder in the bucket, with a slash at its end; empty for the top
 * @param {Record<string, unknown>} request what is asked of them beyond a plain upload
 */
export function take(chosen, folder, request) {
  for (const { file, path } of chosen) {
    const key = folder + path;
    const said = el("span", { role: "status" }, "waiting");
    const progress = el("progress", { max: 1, value: 0, "aria-label": `Progress of ${path}` });
    const actions = el("span", {});
    const picture = el("span", { class: "picture" }, el("span", { class: "quiet" }, "no mask yet"));
    const line = el("li", {}, picture, el("div", {}, el("b", {}, key), el("br"), said, progress), actions);
    list.append(line);
    /** @type {Sending} */
    const one = { file, key, request, line, said, progress, actions, sentAt: 0, job: "", stored: false };
    const fault = faultOf(file);
    if (fault) {
      progress.remove();
      said.className = "bad";
      said.textContent = `not sent: ${fault}`;
      sayNoMask(line);
    } else waiting.push(one);
  }
  next();
}

/** Say why the stack would ignore or refuse a file; empty if it would not. @param {File} file */
export function faultOf(file) {
  if (file.name.startsWith(".")) return "its name starts with a dot, so it is a hidden file";
  if (file.size === 0) return "it is empty";
  if (file.size > about.largest_file) return `it is ${Math.round(file.size / 2 ** 20)} MiB; the limit is ${Math.round(about.largest_file / 2 ** 20)}: split the stack or compress it`;
  return "";
}

/** @param {HTMLElement} line of a file that gets no mask */
function sayNoMask(line) {
  line.querySelector(".picture span")?.replaceChildren("no mask");
}
