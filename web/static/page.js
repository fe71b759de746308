// One page of an image: the picture, what is known of it, and the tools to judge and correct it.

import { askAhead, forgetAll, take } from "./ahead.js";
import { get, isLeft, pause } from "./api.js";
import { Correction } from "./correct.js";
import { el, keyOfImage, say, sentenceOf } from "./dom.js";
import { FINISHED, forgetScores, order } from "./jobs.js";
import { keyed, shortcuts } from "./keys.js";
import { Layer } from "./layers.js";
import { Panel } from "./panel.js";
import { entitle, go, show, trouble } from "./router.js";
import { Threshold } from "./threshold.js";
import { contrastTool, group, opacityTool, stackTool, zoomTool } from "./toolbar.js";
import { Viewer } from "./viewer.js";

/** @typedef {import("./overlay.js").Style} Style */

const AHEAD_AFTER = 100; // milliseconds after a page is shown
/** @type {[Style, string, string][]} */
const STYLES = [
  ["outline", "Outline", "o"],
  ["filled", "Filled", "f"],
  ["truth", "Ground truth", "g"],
  ["disagreement", "Disagreement", "d"],
  ["off", "Image only", "i"],
];

/** @param {import("./router.js").Place} place */
export async function showPage({ main, parts, query, signal }) {
  const [id, number] = parts;
  const begun = take(id, number === "" ? 0 : Number(number), signal); // the first page of most jobs is 0
  /** @param {any} found */
  const lacks = (found) => found instanceof Error || !found.result.pages?.length; // a refused image has no pages
  let known = await begun.result;
  const job = lacks(known) ? await begun.job : null;
  if (job?.status === "SUCCEEDED") known = await get(`jobs/${id}/result`, signal).catch((error) => error); // it finished between the two answers
  if (signal.aborted) return;
  if (job instanceof Error) throw job;
  const panel = new Panel(id, signal);
  const stage = el("div", { class: "stage" });
  main.className = "page";
  main.append(headingOf(job ? job.image : known.result.image.uri, id), stage, panel.element);
  if (lacks(known)) {
    showUnfinished(job, known, id, stage, panel, signal);
    keyed(signal, (event) => pressed(nearKeys(id), event));
    return;
  }
  const page = number === "" ? known.result.pages[0].page : Number(number);
  await new PageView({ id, page, result: known.result, query, signal, stage, panel, begun }).open();
}

/** A job without a result: it is under way, or has failed. @param {any} job @param {unknown} error why there is no result @param {string} id @param {HTMLElement} stage @param {Panel} panel @param {AbortSignal} signal */
function showUnfinished(job, error, id, stage, panel, signal) {
  panel.showJob(job);
  panel.showStatus(job);
  if (!FINISHED.has(job.status)) {
    stage.append(el("p", { class: "note", role: "status" }, "The mask is being made and will appear here."));
    void wait(id, signal);
  } else if (job.status === "SUCCEEDED") {
    const newest = `/images?${new URLSearchParams({ find: keyOfImage(job.image), sort: "newest" })}`;
    stage.append(trouble(error), el("p", {}, el("a", { href: newest }, "Every image of this name")));
  } else {
    stage.append(el("p", { class: "note" }, job.status === "REJECTED" ? "There is no mask: the image or its request was refused." : "There is no mask: the job failed. Fix the cause, then send it again."));
  }
}

/** The keys of every image, with a mask or without. @param {string} id @returns {import("./keys.js").Keys} */
function nearKeys(id) {
  const at = order.indexOf(id);
  /** @param {number} step */
  const near = (step) => () => {
    if (at >= 0 && order[at + step]) go(`/images/${order[at + step]}`);
  };
  return { n: near(1), p: near(-1), "?": () => shortcuts() };
}

/** Do what a key is for; returns whether it is for anything. @param {import("./keys.js").Keys} keys @param {KeyboardEvent} event */
function pressed(keys, event) {
  const act = keys[event.key];
  if (!act || event.ctrlKey || event.metaKey) return false;
  act();
  return true;
}

/** Show the mask once it is made, also after the connection was lost. @param {string} id @param {AbortSignal} signal */
async function wait(id, signal) {
  while (!signal.aborted) {
    try {
      await pause(1000, signal);
      const { status } = await get(`jobs/${id}`, signal);
      if (FINISHED.has(status)) return void show();
    } catch (error) {
      if (!isLeft(error)) say(sentenceOf(error));
    }
  }
}

/** @param {string | undefined} image its address @param {string} id */
function headingOf(image, id) {
  const key = image ? keyOfImage(image) : "A message that names no image";
  entitle(key.split("/").pop() ?? key);
  const at = order.indexOf(id);
  /** @param {number} step @param {string} words @param {string} key */
  const near = (step, words, key) => {
    const target = at < 0 ? undefined : order[at + step];
    return target
      ? el("a", { class: "button", href: `/images/${target}`, rel: step < 0 ? "prev" : "next", title: `${words} (${key})` }, words)
      : el("span", { class: "quiet" }, words);
  };
  return el("div", { class: "heading" }, el("h1", { title: key }, key), el("div", { class: "row" },
    near(-1, "Previous", "p"), el("span", { class: "quiet" }, at < 0 ? "" : `${at + 1} of ${order.length}`), near(1, "Next", "n")));
}

/** The view of a page that has a mask. */
export class PageView {
  /** @param {{id: string, page: number, result: any, query: URLSearchParams, signal: AbortSignal, stage: HTMLElement, panel: Panel, begun: import("./ahead.js").Begun}} given */
  constructor({ id, page, result, query, signal, stage, panel, begun }) {
    this.begun = begun;
    this.id = id;
    this.page = page;
    this.result = result;
    /** @type {{uri: string, etag: string, drawn?: boolean} | null} */
    this.truth = null;
    this.wanted = /** @type {Style} */ (query.get("show") ?? sessionStorage.getItem("show") ?? "outline");
    this.signal = signal;
    this.stage = stage;
    this.panel = panel;
    this.described = result.pages.find((/** @type {any} */ each) => each.page === page);
    /** @type {Viewer | null} */
    this.viewer = null;
  }

  async open() {
    if (!this.described) {
      this.stage.append(trouble(`The job has no page ${this.page}; it has ${this.result.pages.length}.`));
      return;
    }
    this.panel.showResult(this.result, this.described);
    const { begun, page } = this;
    const guessed = page === begun.page;
    const coming = this.#layer("mask", guessed ? begun.mask : null);
    const image = await this.#layer("image", guessed ? begun.image : null);
    if (!image) return;
    const viewer = (this.viewer = new Viewer(image, this.signal));
    this.legend = el("div", { class: "legend", "aria-live": "polite" });
    this.tools = el("div", { class: "tools", role: "toolbar", "aria-label": "View" });
    this.stage.append(this.tools, viewer.element, this.legend);
    this.#offerTools();
    this.#setStyle(this.wanted);
    viewer.setLayer("mask", await coming);
    this.truthKnown = this.#findTruth();
    void begun.job.then((job) => {
      if (!(job instanceof Error)) this.panel.showJob(job);
    });
    this.correction = new Correction(this, viewer);
    this.#listen();
    await this.correction.restore();
  }

  /** The ground truth comes after the mask: S3 is asked for many names. */
  async #findTruth() {
    const found = await this.begun.truth;
    if (found instanceof Error || !found.truth || this.truth) return;
    this.truth = found.truth;
    this.panel.showTruth(found.truth);
    this.correction?.truthFound(found.truth.etag);
    this.viewer?.setLayer("truth", await this.#layer("truth"));
    if (this.viewer) this.#setStyle(this.wanted);
  }

  /** @param {string} name @param {Promise<Layer | Error> | null} [early] asked for already */
  async #layer(name, early) {
    const before = await early; // it fails if the job had not finished by then
    const found = before && !(before instanceof Error) ? before : await Layer.open(this.id, this.page, name, this.signal).catch((error) => error);
    if (found instanceof Layer) return found;
    if (!isLeft(found)) this.stage.append(el("p", { class: "note bad", role: "alert" }, `The ${name} cannot be shown: ${sentenceOf(found)}`));
    return null;
  }

  #offerTools() {
    const viewer = /** @type {Viewer} */ (this.viewer);
    const { pages } = this.result;
    const styles = STYLES.map(([name, words, key]) =>
      el("button", { type: "button", "data-overlay": name, "aria-pressed": "false", title: `${words} (${key})`, onclick: () => this.pick(name) }, words));
    const zoomed = el("output", {});
    this.threshold = new Threshold(this, viewer);
    viewer.onDraw = () => {
      zoomed.textContent = `${Math.round(viewer.scale * 100)} %`;
      if (viewer.element.dataset.ready) this.#askAhead();
    };
    this.tools?.append(
      group("Show", ...styles), zoomTool(viewer, zoomed), contrastTool(viewer), this.threshold.element, opacityTool(viewer),
      pages.length > 1 ? stackTool(pages, pages.indexOf(this.described), (at) => this.turnTo(at)) : "",
      el("button", { type: "button", title: "Keys (?)", onclick: () => shortcuts() }, "Keys"),
    );
  }

  /** @param {number} at place among the job's pages */
  turnTo(at) {
    const target = this.result.pages[at];
    if (target) go(`/images/${this.id}/${target.page}`);
  }

  /** Ask for the pages that the keys lead to, once this one is shown. */
  #askAhead() {
    if (this.asked) return;
    this.asked = setTimeout(() => {
      if (this.signal.aborted) return;
      const at = order.indexOf(this.id);
      const pages = this.result.pages;
      const place = pages.indexOf(this.described);
      if (at > 0) askAhead(order[at - 1]);
      if (at >= 0 && order[at + 1]) askAhead(order[at + 1]);
      if (pages[place + 1]) askAhead(this.id, pages[place + 1].page);
    }, AHEAD_AFTER);
  }

  /** Show an overlay on this image and those that follow. @param {Style} name */
  pick(name) {
    if (name !== "off") sessionStorage.setItem("show", name); // nobody judges masks unseen
    this.choose(name);
  }

  /** Show an overlay, and come back to it when a layer that it needs arrives. @param {Style} name */
  choose(name) {
    this.wanted = name;
    this.#setStyle(name);
  }

  /** @param {Style} name */
  #setStyle(name) {
    if (!this.viewer) return;
    const needed = name === "truth" || name === "disagreement";
    const chosen = (needed && !this.viewer.overlay.truth) || !STYLES.some(([each]) => each === name) ? "outline" : name;
    this.viewer.setStyle(chosen);
    for (const button of this.tools?.querySelectorAll("button[data-overlay]") ?? []) {
      const own = button.getAttribute("data-overlay");
      button.setAttribute("aria-pressed", String(own === chosen));
      if (button instanceof HTMLButtonElement) button.disabled = (own === "truth" || own === "disagreement") && !this.viewer.overlay.truth;
    }
    this.legend?.replaceChildren(...legendOf(chosen));
  }

  /** Show a mask where the image or the ground truth is shown alone. */
  showMask() {
    const style = this.viewer?.overlay.style;
    if (style === "off" || style === "truth") this.#setStyle("outline");
  }

  /** The ground truth was saved: show it. @param {{uri: string, etag: string}} saved */
  async truthSaved(saved) {
    forgetScores();
    forgetAll();
    this.truth = saved;
    const layer = await this.#layer("truth");
    this.viewer?.setLayer("truth", layer);
    if (this.viewer) this.#setStyle(this.viewer.overlay.style);
    this.panel.showTruth(saved);
  }

  #listen() {
    const viewer = /** @type {Viewer} */ (this.viewer);
    const place = this.result.pages.findIndex((/** @type {any} */ each) => each.page === this.page);
    /** @type {import("./keys.js").Keys} */
    const keys = {
      ...nearKeys(this.id), 0: () => viewer.fit(), 1: () => viewer.zoom(1 / viewer.scale),
      "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(1 / 1.25),
      PageDown: () => this.turnTo(place + 1), PageUp: () => this.turnTo(place - 1),
      ...Object.fromEntries(STYLES.map(([name, , key]) => [key, () => this.pick(name)])),
    };
    keyed(this.signal, (event) => {
      if (this.correction?.onKey(event)) return true;
      if (event.key === " " && document.activeElement === viewer.element) {
        viewer.hide(true);
        return true;
      }
      const step = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] }[event.key];
      if (step && document.activeElement === viewer.element) {
        viewer.pan(step[0], step[1]);
        return true;
      }
      return pressed(keys, event);
    });
    addEventListener("keyup", (event) => {
      if (event.key === " ") viewer.hide(false);
    }, { signal: this.signal });
  }
}

/** @param {Style} style */
function legendOf(style) {
  /** @param {string} swatch @param {string} words */
  const one = (swatch, words) => el("span", {}, el("i", { class: `swatch-${swatch}` }), words);
  switch (style) {
    case "disagreement":
      return [one("both", "both say cell"), one("extra", "only the mask says cell"), one("missed", "only the ground truth says cell")];
    case "truth":
      return [one("truth", "outline of the ground truth")];
    case "off":
      return [];
    default:
      return [one("mask", style === "filled" ? "cells of the mask" : "outline of the mask")];
  }
}
