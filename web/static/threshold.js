// The threshold slider: draws the mask at another threshold and says what confluence it would give.

import { get, isLeft, pause, post } from "./api.js";
import { el, sentenceOf } from "./dom.js";
import { FINISHED } from "./jobs.js";
import { Layer } from "./layers.js";

export class Threshold {
  /** @param {import("./page.js").PageView} view @param {import("./viewer.js").Viewer} viewer */
  constructor(view, viewer) {
    this.view = view;
    this.viewer = viewer;
    this.stored = Number(view.result.parameters.threshold);
    /** The threshold that is tried out; null where the stored mask is shown. @type {number | null} */
    this.tried = null;
    /** @type {Layer | null} */
    this.probability = null;
    /** The job that the probabilities are of. */
    this.job = view.id;
    this.fetching = false;
    this.cleaning = false;
    this.slider = el("input", { type: "range", min: 0, max: 1, step: 0.005, value: this.stored, "aria-label": "Threshold", id: "threshold", oninput: () => this.#try(Number(this.slider.value)) });
    this.shown = el("output", { for: "threshold" }, this.stored.toFixed(3));
    this.says = el("output", { class: "quiet", "aria-live": "polite" });
    this.element = el("fieldset", {}, el("legend", { class: "unseen" }, "Threshold"), "Threshold", this.slider, this.shown,
      el("button", { type: "button", title: "The threshold of the stored mask", onclick: () => this.#backToStored() }, "Stored"), this.says);
  }

  /** Whether the request asked for filled holes or no small regions. */
  get cleans() {
    const { min_size_px, min_size_um2, fill_holes } = this.view.result.parameters;
    return Boolean(min_size_px || min_size_um2 || fill_holes);
  }

  /** @param {number} threshold */
  #try(threshold) {
    this.tried = threshold;
    this.shown.textContent = threshold.toFixed(3);
    if (this.probability) this.#draw(this.probability);
    else void this.#fetch();
  }

  /** Show the stored mask again, for good while it is corrected. @param {boolean} held */
  hold(held) {
    if (this.tried !== null) this.#backToStored();
    this.slider.disabled = held;
  }

  #backToStored() {
    this.tried = null;
    this.slider.value = String(this.stored);
    this.shown.textContent = this.stored.toFixed(3);
    this.viewer.setLayer("cleaned", null);
    this.viewer.setLayer("probability", null);
    this.says.textContent = "";
    this.view.panel.showThreshold(null, 0);
  }

  async #fetch() {
    if (this.fetching) return;
    this.fetching = true;
    try {
      this.probability = await this.#probabilities();
      this.says.textContent = "";
      this.#draw(this.probability);
    } catch (error) {
      if (!isLeft(error)) this.says.textContent = sentenceOf(error);
    }
    this.fetching = false;
  }

  /** Open the job's own probabilities, or those of a job that is asked for them. */
  async #probabilities() {
    const { id, page, signal, described, result } = this.view;
    if (!described.probability) {
      this.says.textContent = "asking for the probabilities …";
      const { mode, pages, channel, min_size_px, min_size_um2, fill_holes, pixel_size_um } = result.parameters;
      const asked = await post("jobs", { image: result.image.uri, mode, pages, channel, min_size_px, min_size_um2, fill_holes, pixel_size_um, outputs: ["probability"] }, signal);
      for (;;) {
        const found = await get(`jobs/${asked.job_id}`, signal);
        if (found.status === "SUCCEEDED") break;
        if (FINISHED.has(found.status)) throw new Error(found.error ?? "the probabilities could not be made");
        await pause(400, signal);
      }
      this.job = asked.job_id;
    } else this.job = id;
    return Layer.open(this.job, page, "probability", signal);
  }

  /** @param {Layer} probability */
  #draw(probability) {
    if (this.tried === null) return;
    if (this.viewer.overlay.probability !== probability) this.viewer.setLayer("probability", probability);
    this.viewer.setThreshold(this.tried);
    this.view.showMask();
    if (this.cleans) void this.#clean();
    else this.#say(probability.described.confluence?.[Math.round(this.tried * 1000)]);
  }

  /** Let the server clean the cells as the request asks; meanwhile they are drawn as the network gave them. */
  async #clean() {
    this.says.textContent = "cleaning …";
    if (this.cleaning) return;
    this.cleaning = true;
    const { page, signal } = this.view;
    try {
      for (let done = false; !done; ) {
        const threshold = this.tried;
        if (threshold === null) break;
        const layer = await Layer.open(this.job, page, "cleaned", signal, { threshold: String(threshold) });
        done = threshold === this.tried; // or else the slider has moved on
        if (!done) continue;
        this.viewer.setLayer("cleaned", layer);
        this.#say(layer.described.share);
      }
    } catch (error) {
      if (!isLeft(error)) this.says.textContent = `not cleaned: ${sentenceOf(error)}`;
    }
    this.cleaning = false;
  }

  /** @param {number | undefined} share of the page that is cell */
  #say(share) {
    if (share === undefined || this.tried === null) return;
    this.says.textContent = `confluence ${(share * 100).toFixed(1)} %`;
    this.view.panel.showThreshold(share, this.tried);
  }
}
