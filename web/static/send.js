// Sending: files and folders go straight to the input bucket and turn into masks on the page.

import { about } from "./about.js";
import { el, sentenceOf } from "./dom.js";
import { follow } from "./jobs.js";
import { list, look, take } from "./sending.js";

/** @param {import("./router.js").Place} place */
export async function showSend({ main, signal }) {
  const settings = offerSettings();
  const files = el("input", { type: "file", multiple: true, id: "files", class: "unseen" });
  const folder = el("input", { type: "file", multiple: true, id: "folder", class: "unseen", webkitdirectory: true });
  const drop = el("div", { class: "drop" }, el("p", {}, "Drop images or folders here, or"),
    el("p", {}, el("label", { class: "button", for: "files" }, "choose files"), files, " ", el("label", { class: "button", for: "folder" }, "choose a folder"), folder),
    el("p", { class: "quiet" }, `TIFF, PNG or JPEG, at most ${Math.round(about.largest_file / 2 ** 20)} MiB. They go straight to the bucket ${about.buckets.images ?? ""}.`));
  main.append(el("h1", {}, "Send images"), el("div", { class: "sending" }, el("div", {}, drop, list), settings.element));

  const send = (/** @type {{file: File, path: string}[]} */ chosen) => {
    if (settings.element.reportValidity()) take(chosen, settings.folder(), settings.read()); // or else the browser says which one is wrong
  };
  for (const input of [files, folder]) {
    input.addEventListener("change", () => {
      send([...(input.files ?? [])].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
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
    if (!event.dataTransfer) return;
    const { found, unread } = await dropped(event.dataTransfer);
    send(found);
    if (unread.length) list.before(el("p", { class: "note bad", role: "alert" }, `Not sent, because the browser cannot read them: ${unread.join(", ")}`));
  });
  // A file that misses the box must not replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault(), { signal });
  await follow(signal, look).catch((error) => list.before(el("p", { class: "note bad" }, sentenceOf(error))));
}

/** Files that were dropped, those of folders too, and the paths that cannot be read. @param {DataTransfer} transfer @returns {Promise<{found: {file: File, path: string}[], unread: string[]}>} */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null && entry !== undefined);
  if (!entries.length) return { found: [...transfer.files].map((file) => ({ file, path: file.name })), unread: [] };
  /** @type {{file: File, path: string}[]} */
  const found = [];
  /** @type {string[]} */
  const unread = [];
  /** @param {FileSystemEntry} entry @param {string} above */
  const tried = (entry, above) => walk(entry, above).catch(() => void unread.push(above + entry.name));
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
      for (const each of some) await tried(each, `${above}${entry.name}/`);
    }
  };
  for (const entry of entries) await tried(entry, "");
  return { found: found.sort((a, b) => (a.path < b.path ? -1 : 1)), unread };
}

/** The settings of a request, as a message has them. */
function offerSettings() {
  const mode = el("select", { id: "mode" }, el("option", { value: "" }, "native: full resolution"), el("option", { value: "resize" }, "resize: fast and coarse"));
  const threshold = el("input", { id: "request-threshold", type: "number", min: 0, max: 1, step: "any", placeholder: "the model's own" });
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
      const parts = into.value.split("/").map((part) => part.trim()).filter(Boolean);
      return parts.map((part) => `${part}/`).join("");
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
