// Correcting: paint the mask right, save it as the ground truth, see the score.

import { ApiError, call, get, isLeft } from "./api.js";
import { ask, el, say, sentenceOf } from "./dom.js";
import { claimDraft, dropDraft, keepDraft, readDraft } from "./drafts.js";
import { packTiles } from "./bits.js";
import { Painting } from "./paint.js";
import { LARGEST, TOOLS, Tools } from "./tools.js";

const AGAIN = 3000; // milliseconds until an unanswered save is sent again

export class Correction {
  /** @param {import("./page.js").PageView} view @param {import("./viewer.js").Viewer} viewer */
  constructor(view, viewer) {
    this.view = view;
    this.viewer = viewer;
    this.key = `${view.id}/${view.page}`;
    /** @type {Painting | null} */
    this.painting = null;
    this.tools = new Tools(viewer, () => this.#showTool());
    this.base = "mask";
    this.seen = "";
    this.saving = false;
    this.claiming = false;
    /** Gives the draft back to other tabs. */
    this.giveBack = () => {};
    view.signal.addEventListener("abort", () => this.giveBack());
    this.status = el("span", { role: "status" });
    this.bar = el("div", { class: "tools paintbar", role: "toolbar", "aria-label": "Correct" });
    view.stage.insertBefore(this.bar, viewer.element);
    view.stage.style.gridTemplateRows = "auto auto minmax(0, 1fr) auto";
    this.offer();
  }

  /** Offer to start correcting, unless a correction is under way. */
  offer() {
    if (this.painting) return;
    this.bar.replaceChildren(
      el("button", { type: "button", class: "main", title: "Correct (c)", onclick: () => void this.start("mask") }, "Correct the mask"),
      this.view.truth ? el("button", { type: "button", onclick: () => void this.start("truth") }, "Correct the ground truth") : "",
      el("button", { type: "button", onclick: () => void this.start("empty") }, "Start with an empty page"),
      this.status,
    );
  }

  /** The ground truth that was there when the view opened has been found. @param {string} etag */
  truthFound(etag) {
    if (this.painting) this.seen = etag;
    else this.offer();
  }

  /** Begin, unless another tab corrects this page. @param {string} base mask, truth or empty */
  async start(base) {
    if (base === "truth") await this.view.truthKnown; // its cells follow its name
    if (!this.#layer(base) && base !== "empty") this.status.textContent = "There are no cells to correct: start with an empty page.";
    else if (await this.#claim()) this.#begin(base);
  }

  /** What is painted on; null for an empty page. @param {string} base mask, truth or empty */
  #layer(base) {
    const { mask, truth } = this.viewer.overlay;
    return base === "empty" ? null : base === "truth" ? truth : mask;
  }

  /** Claim the page's draft; returns whether this tab has it now. */
  async #claim() {
    if (this.claiming) return false;
    this.claiming = true;
    const giveBack = await claimDraft(this.key);
    this.claiming = false;
    if (giveBack && this.view.signal.aborted) giveBack();
    else if (giveBack) this.giveBack = giveBack;
    else this.status.textContent = "Another tab corrects this page: go on there, or close it first.";
    return giveBack !== null && !this.view.signal.aborted;
  }

  /** @param {string} base mask, truth or empty */
  #begin(base) {
    const { viewer } = this;
    this.base = base;
    this.seen = this.view.truth?.etag ?? "";
    const layer = this.#layer(base);
    const painting = (this.painting = new Painting(layer, viewer.image.described));
    viewer.overlay.base = layer;
    viewer.overlay.painted = painting;
    this.view.choose(viewer.overlay.style === "outline" ? "outline" : "filled");
    this.view.threshold?.hold(true);
    viewer.redrawOverlay();
    this.tools.paintOn(painting);
    painting.onPaint = () => {
      this.view.showMask(); // nobody paints unseen
      viewer.later();
    };
    painting.onChange = () => {
      viewer.later();
      void this.#keep();
      this.#showState();
    };
    const size = el("input", { type: "range", min: 1, max: LARGEST, step: 1, id: "brush", "aria-label": "Brush size in pixels" });
    size.addEventListener("input", () => this.tools.setSize(Number(size.value)));
    this.sizeSlider = size;
    this.sizeShown = el("output", { for: "brush" });
    this.undoButton = el("button", { type: "button", title: "Undo (ctrl z)", onclick: () => this.#undo() }, "Undo");
    this.redoButton = el("button", { type: "button", title: "Redo (ctrl shift z)", onclick: () => void painting.redo() }, "Redo");
    this.saveButton = el("button", { type: "button", class: "main", title: "Save (ctrl s)", onclick: () => void this.save() }, "Save as ground truth");
    this.bar.replaceChildren(
      el("fieldset", {}, el("legend", { class: "unseen" }, "Tool"), TOOLS.map(([name, words, key]) =>
        el("button", { type: "button", "data-tool": name, title: `${words} (${key})`, onclick: () => this.tools.choose(name) }, words))),
      el("label", {}, "Size", size, this.sizeShown), this.undoButton, this.redoButton, this.saveButton,
      el("button", { type: "button", onclick: () => void this.discard() }, "Discard"), this.status,
    );
    this.#showTool();
    this.#showState();
    viewer.element.focus({ preventScroll: true });
    say("Correcting. Paint with the pointer, or move with the arrow keys and press space.");
  }

  /** Go on with what was painted before a reload. */
  async restore() {
    const draft = await readDraft(this.key).catch(() => undefined);
    if (!draft) return;
    await this.view.truthKnown;
    if (this.view.signal.aborted || !(await this.#claim())) return;
    this.#begin(draft.base === "truth" && !this.view.truth ? "mask" : draft.base);
    this.seen = draft.seen;
    this.painting?.restore(draft.tiles);
    this.status.textContent = `Restored what you painted on ${new Date(draft.at).toLocaleString()}.`;
  }

  async #keep() {
    const { painting } = this;
    if (!painting?.touched) return;
    const tiles = painting.takeUnkept();
    try {
      await keepDraft(this.key, { base: this.base, seen: this.seen, at: Date.now() }, tiles);
    } catch (error) {
      for (const [column, row] of tiles) painting.unkept.add(`${column}/${row}`);
      this.status.textContent = `The browser cannot keep the painting: ${sentenceOf(error)}`;
    }
  }

  #showState() {
    const painting = this.painting;
    if (!painting) return;
    if (this.undoButton) this.undoButton.disabled = !painting.done.length;
    if (this.redoButton) this.redoButton.disabled = !painting.undone.length;
  }

  #showTool() {
    const { tool, size } = this.tools;
    for (const button of this.bar.querySelectorAll("button[data-tool]")) button.setAttribute("aria-pressed", String(button.getAttribute("data-tool") === tool));
    if (this.sizeSlider) this.sizeSlider.value = String(size);
    if (this.sizeShown) this.sizeShown.textContent = `${size} px`;
  }

  async discard() {
    if (this.painting?.touched && !(await ask("Discard what you painted?", "This cannot be undone.", ["Keep painting", "Discard"]))) return;
    await dropDraft(this.key).catch(() => {});
    this.#end();
    this.#focusFirst();
  }

  /** The button that had the focus is gone. */
  #focusFirst() {
    this.bar.querySelector("button")?.focus();
  }

  #end() {
    const { viewer } = this;
    this.painting = null;
    this.giveBack();
    this.view.threshold?.hold(false);
    viewer.overlay.painted = null;
    viewer.overlay.base = undefined;
    this.tools.paintOn(null);
    viewer.redrawOverlay();
    this.offer();
  }

  /** Save as the ground truth. Ask before another one is replaced; try again while the server does not answer. */
  async save() {
    const painting = this.painting;
    if (!painting || this.saving) return;
    this.saving = true;
    if (this.saveButton) this.saveButton.disabled = true;
    try {
      await painting.queue;
      if (this.view.truth?.etag && !(await this.#mayReplace(this.view.truth))) return;
      if (this.view.truth) this.seen = this.view.truth.etag;
      const sent = await this.#send(painting);
      if (!sent) return;
      const { saved, counted } = sent;
      await this.view.truthSaved(saved);
      void this.view.panel.awaitScore(saved.version);
      this.seen = saved.etag;
      await painting.queue;
      if (painting.counted !== counted || this.tools.busy) {
        void this.#keep();
        this.status.textContent = `Saved as ${saved.uri}, without what you painted meanwhile: save again.`;
        return;
      }
      await dropDraft(this.key).catch(() => {});
      this.#end();
      this.status.textContent = `Saved as ${saved.uri}.`;
      say("Saved. The score follows.");
      this.#focusFirst();
    } catch (error) {
      if (!isLeft(error)) this.status.textContent = `Not saved: ${sentenceOf(error)}`;
    } finally {
      this.saving = false;
      if (this.saveButton) this.saveButton.disabled = false;
    }
  }

  /** @param {{uri: string, etag: string}} truth that is there now */
  async #mayReplace({ uri, etag }) {
    const scored = "Every mask of this image would be scored again.";
    if (etag === this.seen) {
      return (await ask("Replace the ground truth?", `${uri} exists. Your painting would replace it. ${scored}`, ["Keep the old one", "Replace it"])) === 1;
    }
    const kept = this.base === "truth" ? ` in the tiles of ${this.painting?.tile} pixels in which you painted; elsewhere the newer one stays` : "";
    return (await ask("Replace the newer ground truth?", `Somebody saved ${uri} while you painted. Your painting would replace it${kept}. ${scored}`, ["Keep the newer one", "Replace it"])) === 1;
  }

  /** Send the painting as it is now; returns what was saved, and the number of the newest change in it. @param {Painting} painting */
  async #send(painting) {
    for (;;) {
      const { counted } = painting;
      const body = packTiles(painting.changed(), painting.tile);
      const query = new URLSearchParams({ base: this.base, seen: this.seen });
      try {
        const response = await call(`jobs/${this.view.id}/pages/${this.view.page}/truth?${query}`, {
          method: "POST", headers: { "Content-Type": "application/octet-stream" }, body, signal: this.view.signal,
        });
        return { saved: await response.json(), counted };
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.status === 0) {
          this.status.textContent = "Not saved yet: the connection is lost. Trying again …";
          await new Promise((resolve) => setTimeout(resolve, AGAIN));
        } else if (error.code === "TRUTH_EXISTS") {
          const known = await get(`jobs/${this.view.id}/truth`, this.view.signal);
          this.view.truth = known.truth;
          if (known.truth?.etag && !(await this.#mayReplace(known.truth))) return null;
          this.seen = known.truth?.etag ?? "";
        } else {
          throw error;
        }
      }
    }
  }

  /** Take back the stroke under way, or else the newest one. */
  #undo() {
    if (this.tools.busy) this.tools.cancel();
    else void this.painting?.undo();
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (!this.painting) {
      if (event.key === "c" && !event.ctrlKey && !event.metaKey) {
        void this.start("mask");
        return true;
      }
      return false;
    }
    const mod = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (mod && (key === "y" || (key === "z" && event.shiftKey))) {
      if (!this.tools.busy) void this.painting.redo();
    } else if (mod && key === "z") this.#undo();
    else if (mod && key === "s") void this.save();
    else if (mod) return false;
    else return this.tools.onKey(event);
    return true;
  }
}
