// The gallery: every image, filtered and sorted; the most doubtful first.

import { askAhead } from "./ahead.js";
import { pause, post } from "./api.js";
import { el, fixed, sentenceOf } from "./dom.js";
import { FEW, fetchScores, folderOf, follow, forgetScores, jobs, keepOrder, nameOf, unscored } from "./jobs.js";
import { keepScroll, note, trouble } from "./router.js";
import { NO_PICTURE } from "./thumbnail.js";
import { Grid } from "./virtual.js";
import { wordsOf } from "./words.js";

/** @typedef {import("./jobs.js").Job} Job */
/** @typedef {Record<string, string>} Filters */

const MANY = 200; // scores whose reading is told
const SCORES_AGAIN = 15000; // milliseconds
const LONGEST_NAME = 50; // letters on a card
const DWELL = 60; // milliseconds that the pointer rests on a card before its page is asked for
const CARD = { width: 208, height: 250 };
const FIELDS = ["find", "status", "group", "folder", "flag", "iou", "from", "to", "sort"];
/** @type {Record<string, [string, (a: Job, b: Job) => number]>} */
const SORTS = {
  doubt: ["most doubtful first", (a, b) => (b.doubt ?? 0) - (a.doubt ?? 0) || newest(a, b)],
  newest: ["newest first", newest],
  name: ["by name", (a, b) => ordered(a.key ?? "", b.key ?? "")],
  confluence: ["least confluent first", (a, b) => (a.confluence ?? 2) - (b.confluence ?? 2)],
  iou: ["lowest IoU first", (a, b) => (a.iou ?? 2) - (b.iou ?? 2)],
};

/** @param {Job} a @param {Job} b */
function newest(a, b) {
  return ordered(b.created, a.created);
}

/** @param {string} a @param {string} b */
function ordered(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** @param {import("./router.js").Place} place */
export async function showGallery({ main, query, signal }) {
  main.className = "gallery";
  import("./page.js").catch(() => {}); // a click leads there, and says so if it cannot be loaded
  /** @type {Filters} */
  const filters = Object.fromEntries(FIELDS.map((name) => [name, query.get(name) ?? ""]));
  if (!Object.hasOwn(SORTS, filters.sort)) filters.sort = "";
  const counted = el("p", { class: "quiet", role: "status" }, "Reading the list …");
  const frame = el("div", { class: "frame", "aria-label": "Images", role: "region", tabindex: "-1" });
  const form = el("form", { class: "filters", "aria-label": "Filters", onsubmit: prevent });
  const scored = el("span", { class: "quiet" });
  const unfiltered = el("a", {}, "Show all");
  const bar = el("div", { class: "row spread" }, el("span", { class: "row" }, counted, unfiltered, scored), downloads(() => shown));
  main.append(el("h1", { class: "unseen" }, "Images"), form, bar, frame);
  /** @type {Job[]} */
  let shown = [];
  let scoring = false;
  /** @type {Grid<Job>} */
  const grid = new Grid(frame, { ...CARD, make: emptyCard, fill: fillCard, keyOf: (job) => job.id, settled }, signal);

  signal.addEventListener("abort", () => {
    for (const picture of frame.querySelectorAll("img")) picture.removeAttribute("src"); // what is under way would hold the next view up
  });

  /** Fetch the scores: every job's where what is shown depends on it, or where there are few jobs. */
  async function scoreAll() {
    if (scoring) return;
    scoring = true;
    try {
      while (!signal.aborted) {
        const all = filters.sort === "iou" || filters.iou || jobs.size <= FEW ? [...jobs.values()] : [];
        const left = unscored(all).length;
        scored.textContent = left > MANY ? `reading scores, ${left.toLocaleString("en")} to go` : "";
        if (!left) break;
        if (await fetchScores(all, signal)) arrange();
      }
    } catch {
      // The connection is lost, or the view was left; the next change tries again.
    }
    scoring = false;
    scored.textContent = "";
  }

  /** Look the scores up from time to time: a new ground truth does not change the job. */
  async function scoreAgain() {
    try {
      for (;;) {
        await pause(SCORES_AGAIN, signal);
        if (document.hidden || !shown.length) continue;
        await settled(seenLast);
        await scoreAll();
      }
    } catch {
      // The view was left.
    }
  }

  /** @type {Job[]} */
  let seenLast = [];
  /** @param {Job[]} seen */
  async function settled(seen) {
    seenLast = seen;
    try {
      if (await fetchScores(seen, signal)) arrange();
    } catch {
      // The scores are asked for again when scrolling rests the next time.
    }
  }

  function arrange() {
    const all = [...jobs.values()].filter((job) => job.has_mask || job.status !== "SUCCEEDED");
    offer(form, all, filters, () => {
      note({ ...filters, sort: filters.sort === "doubt" ? "" : filters.sort });
      frame.scrollTop = 0;
      arrange();
    });
    unfiltered.hidden = FIELDS.every((name) => name === "sort" || !filters[name]);
    unfiltered.href = filters.sort ? `/images?sort=${filters.sort}` : "/images";
    const sort = (SORTS[filters.sort] ?? SORTS.doubt)[1];
    shown = all.filter((job) => fits(job, filters)).sort(sort);
    keepOrder(shown.map((job) => job.id));
    grid.set(shown);
    const count = `${shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} images`;
    if (counted.textContent !== count) counted.textContent = count;
    frame.classList.toggle("empty", !all.length);
    empty.hidden = all.length > 0;
    void scoreAll();
  }

  const scrollBack = keepScroll(frame, signal);
  const empty = el("p", { class: "note" }, "There are no images yet. ", el("a", { href: "/send" }, "Send some"), ".");
  empty.hidden = true;
  frame.before(empty);
  forgetScores();
  void scoreAgain();
  try {
    await follow(signal, () => {
      const first = !grid.items.length;
      arrange();
      if (first) scrollBack();
    });
  } catch (error) {
    counted.replaceChildren();
    frame.replaceChildren(trouble(error));
  }
}

/** Name a choice that no image has now, as from a bookmark, or after its jobs went on. @param {string} name of the filter @param {string} value */
function wordsOfNone(name, value) {
  return name === "iou" ? `up to ${value}` : `${name === "status" || name === "flag" ? wordsOf(value) : value} (0)`;
}

/** @param {Event} event */
function prevent(event) {
  event.preventDefault();
}

/**
 * Whether a job passes the filters.
 * @param {Job} job
 * @param {Filters} filters
 */
export function fits(job, filters) {
  const { find, status, group, folder, flag, iou, from, to } = filters;
  if (find && !folded(`${job.key ?? ""} ${job.id}`).includes(folded(find))) return false;
  if (status && job.status !== status) return false;
  if (group && (job.group ?? "") !== (group === "–" ? "" : group)) return false;
  if (folder && folderOf(job) !== (folder === "–" ? "" : folder)) return false;
  if (flag === "any" && !job.quality?.length) return false;
  if (flag && flag !== "any" && !job.quality?.includes(flag)) return false;
  if (iou && !(job.iou !== undefined && job.iou <= Number(iou))) return false;
  if (from && !(job.confluence !== undefined && job.confluence >= Number(from) / 100)) return false;
  if (to && !(job.confluence !== undefined && job.confluence <= Number(to) / 100)) return false;
  return true;
}

/** A text as it is searched: macOS writes ü as two letters, a keyboard as one. @param {string} text */
function folded(text) {
  return text.normalize().toLowerCase();
}

/**
 * Build the filters, or bring their choices up to date.
 * @param {HTMLFormElement} form
 * @param {Job[]} all
 * @param {Filters} filters
 * @param {() => void} changed
 */
function offer(form, all, filters, changed) {
  const groups = count(all.map((job) => job.group || "–"));
  const folders = count(all.map((job) => folderOf(job) || "–"));
  const flags = count(all.flatMap((job) => job.quality ?? []));
  const statuses = count(all.map((job) => job.status));
  /** @type {[string, string, [string, string][]][]} */
  const choices = [
    ["status", "Status", [["", "any"], ...statuses.map(([name, many]) => pair(name, `${wordsOf(name)} (${many})`))]],
    ["group", "Group", [["", "any"], ...groups.map(([name, many]) => pair(name, `${name} (${many})`))]],
    ["folder", "Folder", [["", "any"], ...folders.map(([name, many]) => pair(name, `${name} (${many})`))]],
    ["flag", "Warning", [["", "any or none"], ["any", "any warning"], ...flags.map(([name, many]) => pair(name, `${wordsOf(name)} (${many})`))]],
    ["iou", "IoU", [["", "any"], ["0.9", "up to 0.9"], ["0.8", "up to 0.8"], ["0.7", "up to 0.7"], ["0.5", "up to 0.5"]]],
    ["sort", "Order", Object.entries(SORTS).map(([name, [words]]) => pair(name, words))],
  ];
  if (!form.firstChild) form.append(...fields(choices.map(([name, words]) => [name, words]), filters, changed));
  for (const [name, , options] of choices) {
    const chosen = filters[name] || options[0][0];
    if (!options.some(([value]) => value === chosen)) options.push(pair(chosen, wordsOfNone(name, chosen)));
    const select = form.querySelector(`#${name}`);
    const signature = JSON.stringify(options);
    if (!(select instanceof HTMLSelectElement) || select.dataset.options === signature) continue;
    select.dataset.options = signature;
    select.replaceChildren(...options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  }
}

/**
 * The fields of the filters; those that choose are empty. They are made once, so that an open one stays open.
 * @param {[string, string][]} choices
 * @param {Filters} filters
 * @param {() => void} changed
 */
function fields(choices, filters, changed) {
  /** @param {string} name @returns {(event: Event) => void} */
  const set = (name) => (event) => {
    filters[name] = valueOf(event);
    changed();
  };
  const find = el("label", {}, "Name", el("input", { type: "search", id: "find", value: filters.find, oninput: set("find") }));
  const selects = choices.map(([name, words]) => el("label", {}, words, el("select", { id: name, onchange: set(name) })));
  /** @param {string} name */
  const percent = (name) => el("input", { type: "number", id: name, min: 0, max: 100, value: filters[name], "aria-label": `Confluence ${name}, in %`, oninput: set(name) });
  return [find, ...selects, el("fieldset", {}, el("legend", {}, "Confluence, %"), percent("from"), " to ", percent("to"))];
}

/** @param {string} value @param {string} text @returns {[string, string]} */
function pair(value, text) {
  return [value, text];
}

/** @param {Event} event */
function valueOf(event) {
  return event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement ? event.target.value : "";
}

/** How often each text occurs, in their order. @param {string[]} texts @returns {[string, number][]} */
function count(texts) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => ordered(a, b));
}

/** An empty card. */
function emptyCard() {
  const picture = el("img", { alt: "", width: 192, height: 144, decoding: "async" });
  const instead = el("span", { class: "quiet" });
  const card = el("div", { class: "card", role: "listitem" },
    el("a", {}, el("span", { class: "picture" }, picture, instead), el("b", {}), el("span", { class: "facts" }), el("span", { class: "marks" })));
  picture.addEventListener("error", () => {
    picture.removeAttribute("src");
    instead.textContent = NO_PICTURE;
  });
  let waiting = 0;
  const ahead = () => {
    if (card.dataset.job && card.dataset.status === "SUCCEEDED") askAhead(card.dataset.job);
  };
  for (const name of ["pointerenter", "focusin"]) {
    card.addEventListener(name, () => {
      clearTimeout(waiting);
      waiting = window.setTimeout(ahead, DWELL);
    });
  }
  card.addEventListener("pointerdown", ahead); // a click follows soon
  for (const name of ["pointerleave", "click"]) card.addEventListener(name, () => clearTimeout(waiting)); // the page that a click opens asks itself
  card.addEventListener("rest", () => {
    const wanted = card.dataset.picture ?? "";
    if (wanted && picture.getAttribute("src") !== wanted) picture.src = wanted;
  });
  return card;
}

/**
 * @param {HTMLElement} card
 * @param {Job} job
 */
function fillCard(card, job) {
  const [link] = card.getElementsByTagName("a");
  const [picture] = card.getElementsByTagName("img");
  const [name] = card.getElementsByTagName("b");
  const [facts, marks] = [card.querySelector(".facts"), card.querySelector(".marks")];
  link.href = `/images/${job.id}`;
  const instead = card.querySelector(".picture span");
  if (instead) instead.textContent = job.status === "SUCCEEDED" ? "" : job.status === "REJECTED" || job.status === "FAILED" ? "no mask" : "no mask yet";
  name.textContent = shortened(nameOf(job));
  link.title = job.key ?? "";
  const wanted = job.status === "SUCCEEDED" ? `/api/jobs/${job.id}/thumbnail` : "";
  if (card.dataset.picture !== wanted) picture.removeAttribute("src");
  card.dataset.picture = wanted;
  card.dataset.status = job.status;
  card.dataset.job = job.id;
  const interval = job.low !== undefined && job.high !== undefined ? ` (${percentOf(job.low)}–${percentOf(job.high)})` : "";
  const more = `${job.iou === undefined ? "" : `, IoU ${fixed(job.iou, 2)}`}${(job.pages ?? 1) > 1 ? `, ${job.pages} pages` : ""}`;
  if (facts) facts.textContent = job.confluence === undefined ? wordsOf(job.status) : `${percentOf(job.confluence)}${interval} %${more}`;
  const flags = (job.quality ?? []).map(wordsOf);
  marks?.replaceChildren(...flags.slice(0, 1).map((flag) => el("span", { class: "mark" }, flag)));
  if (flags.length > 1) marks?.append(el("span", { class: "mark", title: flags.join(", ") }, `+${flags.length - 1}`));
  if (job.error_code && job.status !== "SUCCEEDED") marks?.append(el("span", { class: "mark bad" }, wordsOf(job.error_code)));
}

/** Cut a long name in its middle: names often differ only at the end. @param {string} name */
function shortened(name) {
  return name.length <= LONGEST_NAME ? name : `${name.slice(0, LONGEST_NAME / 2 - 3)}…${name.slice(2 - LONGEST_NAME / 2)}`;
}

/** @param {number} share */
function percentOf(share) {
  return (share * 100).toFixed(share < 0.1 ? 1 : 0);
}

/**
 * The buttons that download the jobs shown.
 * @param {() => Job[]} chosen
 */
function downloads(chosen) {
  const said = el("span", { role: "status", class: "quiet" });
  /** @param {string} kind @param {string} [note] what to know of the file */
  const take = async (kind, note = "") => {
    const ids = chosen().map((job) => job.id);
    said.textContent = ids.length ? "" : "No image is shown, so there is nothing to download.";
    if (!ids.length) return;
    try {
      const { url } = await post("downloads", { kind, ids });
      const link = el("a", { href: url, download: "" });
      document.body.append(link);
      link.click();
      link.remove();
      said.textContent = `The download starts.${note}`;
    } catch (error) {
      said.textContent = `Not downloaded: ${sentenceOf(error)}`;
    }
  };
  return el("div", { class: "row" }, el("span", { class: "quiet" }, "Download these:"),
    el("button", { type: "button", onclick: () => void take("masks") }, "Masks"),
    el("button", { type: "button", onclick: () => void take("table") }, "Table (CSV)"),
    el("button", { type: "button", title: "Images and their ground truths under the same names, ready for training", onclick: () => void take("pairs", " It holds the images that have a ground truth; missing.txt in it names those whose ground truth cannot be used.") }, "Corrected pairs"), said);
}
