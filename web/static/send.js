// Sending: files and folders go straight to the input bucket and turn into masks on the page.

import { about } from "./about.js";
import { ApiError, isLeft, post } from "./api.js";
import { el, fixed, sentenceOf } from "./dom.js";
import { follow, hurry, jobs } from "./jobs.js";
import { thumbnail } from "./thumbnail.js";
import { upload } from "./upload.js";
import { wordsOf } from "./words.js";

const AT_ONCE = 3;
const PICTURE = { width: 96, height: 72 };

/**
 * @typedef {object} Sending a file on its way
 * @property {File} file
 * @property {string} key
 * @property {HTMLLIElement} line
 * @property {HTMLElement} said
 * @property {HTMLProgressElement} progress
 * @property {HTMLElement} actions
 * @property {number} sentAt milliseconds since 1970; 0 before it was sent
 * @property {string} job the id of the job that was asked for, if any
 */

/** @param {import("./router.js").Place} place */
export async function showSend({ main, signal }) {
  const settings = offerSettings();
  const list = el("ul", { class: "files", "aria-label": "Files", "aria-live": "polite" });
  const files = el("input", { type: "file", multiple: true, id: "files", class: "unseen" });
  const folder = el("input", { type: "file", multiple: true, id: "folder", class: "unseen", webkitdirectory: true });
  const drop = el("div", { class: "drop" }, el("p", {}, "Drop images or folders here, or"),
    el("p", {}, el("label", { class: "button", for: "files" }, "choose files"), files, " ", el("label", { class: "button", for: "folder" }, "choose a folder"), folder),
    el("p", { class: "quiet" }, `TIFF, PNG or JPEG, at most ${Math.round(about.largest_file / 2 ** 20)} MiB. They go straight to the bucket ${about.buckets.images ?? ""}.`));
  main.append(el("h1", {}, "Send images"), el("div", { class: "sending" }, el("div", {}, drop, list), settings.element));

  /** @type {Sending[]} */
  const waiting = [];
  /** @type {Sending[]} */
  const sent = [];
  let active = 0;

  const next = () => {
    while (active < AT_ONCE && waiting.length) {
      const one = /** @type {Sending} */ (waiting.shift());
      active += 1;
      void transfer(one, false).finally(() => {
        active -= 1;
        next();
      });
    }
  };

  /** @param {Sending} one @param {boolean} replace */
  async function transfer(one, replace) {
    const { file, key, said, progress, actions } = one;
    actions.replaceChildren();
    progress.hidden = false;
    try {
      said.textContent = "sending …";
      one.sentAt = Date.now();
      await upload(file, key, replace, signal, (share) => {
        progress.value = share;
      });
      progress.remove();
      said.textContent = "in the bucket; the mask follows";
      sent.push(one);
      const request = settings.read();
      if (Object.keys(request).length) {
        const asked = await post("jobs", { image: `s3://${about.buckets.images}/${key}`, ...request }, signal);
        one.job = asked.job_id;
      }
      hurry();
      look();
    } catch (error) {
      if (isLeft(error)) return;
      progress.hidden = true;
      said.textContent = sentenceOf(error);
      said.className = "bad";
      const again = (/** @type {boolean} */ over) => () => {
        said.className = "";
        void transfer(one, over);
      };
      if (error instanceof ApiError && error.code === "IMAGE_EXISTS") {
        actions.append(el("button", { type: "button", onclick: again(true) }, "Replace"), " ", el("button", { type: "button", onclick: () => one.line.remove() }, "Skip"));
      } else if (!(error instanceof ApiError) || error.status === 0 || error.status >= 500) {
        actions.append(el("button", { type: "button", onclick: again(replace) }, "Try again"));
      }
    }
  }

  /** Show what became of the images that were sent. */
  function look() {
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

  /** @param {{file: File, path: string}[]} chosen */
  function take(chosen) {
    for (const { file, path } of chosen) {
      const key = settings.folder() + path;
      const said = el("span", { role: "status" }, "waiting");
      const progress = el("progress", { max: 1, value: 0, "aria-label": `Progress of ${path}` });
      const actions = el("span", {});
      const picture = el("span", { class: "picture" }, el("span", { class: "quiet" }, "no mask yet"));
      const line = el("li", {}, picture, el("div", {}, el("b", {}, key), el("br"), said, progress), actions);
      list.append(line);
      /** @type {Sending} */
      const one = { file, key, line, said, progress, actions, sentAt: 0, job: "" };
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

  for (const input of [files, folder]) {
    input.addEventListener("change", () => {
      take([...(input.files ?? [])].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
      input.value = "";
    });
  }
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer) take(await dropped(event.dataTransfer));
  });
  // A file that misses the box must not replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault(), { signal });
  await follow(signal, look).catch((error) => list.before(el("p", { class: "note bad" }, sentenceOf(error))));
}

/** @param {HTMLElement} line of a file that gets no mask */
function sayNoMask(line) {
  line.querySelector(".picture span")?.replaceChildren("no mask");
}

/** Say why the stack would ignore or refuse a file; empty if it would not. @param {File} file */
export function faultOf(file) {
  const ending = /\.[^.]+$/.exec(file.name.toLowerCase())?.[0] ?? "";
  if (about.sidecars.includes(ending)) return `${ending} files are notes beside images, not images`;
  if (file.name.startsWith(".")) return "its name starts with a dot, so it is a hidden file";
  if (file.size === 0) return "it is empty";
  if (file.size > about.largest_file) return `it is ${Math.round(file.size / 2 ** 20)} MiB; the limit is ${Math.round(about.largest_file / 2 ** 20)}: split the stack or compress it`;
  return "";
}

/** Files that were dropped, those of folders too. @param {DataTransfer} transfer @returns {Promise<{file: File, path: string}[]>} */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null && entry !== undefined);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  /** @type {{file: File, path: string}[]} */
  const found = [];
  /** @param {FileSystemEntry} entry @param {string} above */
  const walk = async (entry, above) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject));
      found.push({ file, path: above + entry.name });
      return;
    }
    const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
    for (;;) {
      /** @type {FileSystemEntry[]} */
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const each of some) await walk(each, `${above}${entry.name}/`);
    }
  };
  for (const entry of entries) await walk(entry, "");
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** The settings of a request, as a message has them. */
function offerSettings() {
  const mode = el("select", { id: "mode" }, el("option", { value: "" }, "native: full resolution"), el("option", { value: "resize" }, "resize: fast and coarse"));
  const threshold = el("input", { id: "request-threshold", type: "number", min: 0, max: 1, step: 0.01, placeholder: "the model's own" });
  const channel = el("input", { id: "channel", type: "number", min: 0, max: 999, step: 1, placeholder: "if there are several" });
  const least = el("input", { id: "min-size", type: "number", min: 0, max: 1e9, step: 1, placeholder: "0" });
  const fill = el("input", { id: "fill-holes", type: "checkbox" });
  const pixel = el("input", { id: "pixel-size", type: "number", min: 0.001, max: 1000, step: "any", placeholder: "what the file says" });
  const pages = el("input", { id: "pages", placeholder: "all", pattern: "all|[0-9]+(-[0-9]+)?", title: "all, a page counted from 0, or a range such as 0-3" });
  const group = el("input", { id: "group", maxlength: 256, placeholder: "none" });
  const into = el("input", { id: "into", placeholder: "top of the bucket", title: "A folder's name, such as plate 7" });
  const element = el("form", { class: "settings", "aria-label": "Settings", onsubmit: (/** @type {Event} */ event) => event.preventDefault() },
    el("h2", {}, "Settings"), el("label", {}, "Folder in the bucket", into), el("label", {}, "Group in reports", group), el("label", {}, "Mode", mode),
    el("label", {}, "Threshold", threshold), el("label", {}, "Channel", channel), el("label", {}, "Pages", pages),
    el("label", {}, "Smallest region, in pixels", least), el("label", {}, fill, "Fill holes"), el("label", {}, "Side of a pixel, in µm", pixel),
    el("p", { class: "quiet" }, "Every upload gets the usual mask. If you change anything but folder and group, the image gets a second mask."));
  return {
    element,
    folder: () => {
      const clean = into.value.trim().replace(/^\/+|\/+$/g, "");
      return clean ? `${clean}/` : "";
    },
    /** The fields in which the request differs from a plain upload. */
    read: () => {
      /** @type {Record<string, unknown>} */
      const request = {};
      if (mode.value) request.mode = mode.value;
      if (threshold.value !== "") request.threshold = Number(threshold.value);
      if (channel.value !== "") request.channel = Number(channel.value);
      if (least.value !== "") request.min_size_px = Number(least.value);
      if (fill.checked) request.fill_holes = true;
      if (pixel.value !== "") request.pixel_size_um = Number(pixel.value);
      if (pages.value.trim()) request.pages = pages.value.trim();
      if (group.value.trim()) request.group = group.value.trim();
      return request;
    },
  };
}
