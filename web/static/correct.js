// Correcting: paint the mask right, save it as the ground truth, see the score.

import { ApiError, call, get, isLeft } from "./api.js";
import { ask, el, say, sentenceOf } from "./dom.js";
import { dropDraft, keepDraft, readDraft } from "./drafts.js";
import { Painting, packTiles } from "./paint.js";

/** @typedef {"brush" | "eraser" | "fill" | "lasso" | "move"} Tool */

/** @type {[Tool, string, string][]} */
const TOOLS = [["brush", "Brush", "b"], ["eraser", "Eraser", "e"], ["fill", "Fill", "h"], ["lasso", "Lasso", "l"], ["move", "Move", "m"]];
const AGAIN = 3000; // milliseconds until a save that broke off is tried again
const LARGEST = 200;

export class Correction {
  /** @param {any} view the PageView that it belongs to */
  constructor(view) {
    this.view = view;
    this.key = `${view.id}/${view.page}`;
    /** @type {Painting | null} */
    this.painting = null;
    /** @type {Tool} */
    this.tool = "brush";
    this.size = 8;
    this.base = "mask";
    this.seen = "";
    /** @type {[number, number][]} */
    this.corners = [];
    /** @type {[number, number] | null} */
    this.last = null;
    /** @type {[number, number] | null} */
    this.at = null;
    this.saving = false;
    this.status = el("span", { role: "status" });
    this.bar = el("div", { class: "tools paintbar", role: "toolbar", "aria-label": "Correct" });
    view.stage.insertBefore(this.bar, view.viewer.element);
    view.stage.style.gridTemplateRows = "auto auto minmax(0, 1fr) auto";
    this.offer();
  }

  /** Offer to begin, unless something is painted already. */
  offer() {
    if (this.painting) return;
    this.bar.replaceChildren(
      el("button", { type: "button", class: "main", title: "Correct (c)", onclick: () => this.begin("mask") }, "Correct the mask"),
      this.view.truth ? el("button", { type: "button", onclick: () => this.begin("truth") }, "Correct the ground truth") : "",
      el("button", { type: "button", onclick: () => this.begin("empty") }, "Begin with an empty page"),
      this.status,
    );
  }

  /** @param {string} base mask, truth or empty */
  begin(base) {
    const { viewer } = this.view;
    this.base = base;
    this.seen = this.view.truth?.etag ?? "";
    const layer = base === "empty" ? null : base === "truth" ? viewer.truth : viewer.mask;
    const painting = (this.painting = new Painting(layer, viewer.image.described));
    viewer.base = layer;
    viewer.painted = painting;
    this.view.choose(viewer.overlay === "outline" ? "outline" : "filled");
    viewer.redrawOverlay();
    this.#takePointer();
    painting.onPaint = () => viewer.later();
    painting.onChange = () => {
      viewer.later();
      void this.#keep();
      this.#showState();
    };
    const size = el("input", { type: "range", min: 1, max: LARGEST, step: 1, id: "brush", "aria-label": "Brush size in pixels" });
    size.value = String(this.size);
    size.addEventListener("input", () => this.#setSize(Number(size.value)));
    this.sizeSlider = size;
    this.sizeShown = el("output", { for: "brush" }, `${this.size} px`);
    this.undoButton = el("button", { type: "button", title: "Undo (ctrl z)", onclick: () => void painting.undo() }, "Undo");
    this.redoButton = el("button", { type: "button", title: "Redo (ctrl shift z)", onclick: () => void painting.redo() }, "Redo");
    this.saveButton = el("button", { type: "button", class: "main", title: "Save (ctrl s)", onclick: () => void this.save() }, "Save as ground truth");
    this.bar.replaceChildren(
      el("fieldset", {}, el("legend", { class: "unseen" }, "Tool"), TOOLS.map(([name, words, key]) =>
        el("button", { type: "button", "data-tool": name, "aria-pressed": String(name === this.tool), title: `${words} (${key})`, onclick: () => this.#setTool(name) }, words))),
      el("label", {}, "Size", size, this.sizeShown), this.undoButton, this.redoButton, this.saveButton,
      el("button", { type: "button", onclick: () => void this.discard() }, "Discard"), this.status,
    );
    this.#showState();
    viewer.element.focus({ preventScroll: true });
    say("Correcting. Paint with the pointer, or move with the arrow keys and press space.");
  }

  /** Go on with what was painted before a reload. */
  async restore() {
    const draft = await readDraft(this.key).catch(() => undefined);
    if (!draft) return;
    await this.view.truthKnown;
    if (this.view.signal.aborted) return;
    this.begin(draft.base === "truth" && !this.view.truth ? "mask" : draft.base);
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

  /** @param {Tool} tool */
  #setTool(tool) {
    this.tool = tool;
    this.corners = [];
    for (const button of this.bar.querySelectorAll("button[data-tool]")) button.setAttribute("aria-pressed", String(button.getAttribute("data-tool") === tool));
    this.#takePointer();
    this.#drawCursor();
  }

  /** The pointer uses the tool, or moves the page. */
  #takePointer() {
    const { viewer } = this.view;
    viewer.tool = this.painting && this.tool !== "move" ? this : null;
    viewer.element.classList.toggle("painting", viewer.tool !== null);
  }

  /** @param {number} size */
  #setSize(size) {
    this.size = Math.max(1, Math.min(LARGEST, Math.round(size)));
    if (this.sizeSlider) this.sizeSlider.value = String(this.size);
    if (this.sizeShown) this.sizeShown.textContent = `${this.size} px`;
    this.#drawCursor();
  }

  async discard() {
    if (this.painting?.touched && !(await ask("Discard what you painted?", "It cannot be brought back.", ["Keep painting", "Discard"]))) return;
    await dropDraft(this.key).catch(() => {});
    this.#end();
  }

  #end() {
    const { viewer } = this.view;
    this.painting = null;
    viewer.painted = null;
    viewer.base = undefined;
    this.#takePointer();
    viewer.redrawOverlay();
    this.at = null;
    this.#drawCursor();
    this.offer();
  }

  /** Save as the ground truth; ask where another one would be lost; try again while nobody answers. */
  async save() {
    const painting = this.painting;
    if (!painting || this.saving) return;
    this.saving = true;
    if (this.saveButton) this.saveButton.disabled = true;
    try {
      await painting.queue;
      if (this.view.truth?.etag && !(await this.#mayReplace(this.view.truth.uri))) return;
      if (this.view.truth) this.seen = this.view.truth.etag;
      const saved = await this.#send(painting);
      if (!saved) return;
      await dropDraft(this.key).catch(() => {});
      await this.view.truthSaved(saved);
      this.#end();
      this.status.textContent = `Saved as ${saved.uri}.`;
      say("Saved. The score follows.");
      this.bar.querySelector("button")?.focus();
      void this.view.panel.awaitScore(saved.version);
    } catch (error) {
      if (!isLeft(error)) this.status.textContent = `Not saved: ${sentenceOf(error)}`;
    } finally {
      this.saving = false;
      if (this.saveButton) this.saveButton.disabled = false;
    }
  }

  /** @param {string} uri */
  async #mayReplace(uri) {
    return (await ask("Replace the ground truth?", `${uri} exists. Your painting would take its place, and every mask of this image is scored anew.`, ["Keep the old one", "Replace it"])) === 1;
  }

  /** @param {Painting} painting */
  async #send(painting) {
    for (;;) {
      const body = packTiles(painting.changed(), painting.tile);
      const query = new URLSearchParams({ base: this.base, seen: this.seen });
      try {
        const response = await call(`jobs/${this.view.id}/pages/${this.view.page}/truth?${query}`, {
          method: "POST", headers: { "Content-Type": "application/octet-stream" }, body, signal: this.view.signal,
        });
        return response.json();
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.status === 0) {
          this.status.textContent = "Not saved yet: the connection is lost. It is tried again by itself.";
          await new Promise((resolve) => setTimeout(resolve, AGAIN));
        } else if (error.code === "TRUTH_EXISTS") {
          const known = await get(`jobs/${this.view.id}/truth`, this.view.signal);
          this.view.truth = known.truth;
          if (known.truth?.etag && !(await this.#mayReplace(known.truth.uri))) return null;
          this.seen = known.truth?.etag ?? "";
        } else {
          throw error;
        }
      }
    }
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (!this.painting) {
      if (event.key === "c" && !event.ctrlKey && !event.metaKey) {
        this.begin("mask");
        return true;
      }
      return false;
    }
    const mod = event.ctrlKey || event.metaKey;
    if (mod && event.key.toLowerCase() === "z") void (event.shiftKey ? this.painting.redo() : this.painting.undo());
    else if (mod && event.key.toLowerCase() === "y") void this.painting.redo();
    else if (mod && event.key.toLowerCase() === "s") void this.save();
    else if (mod) return false;
    else if (event.key === "[") this.#setSize(this.size - Math.max(1, this.size * 0.15));
    else if (event.key === "]") this.#setSize(this.size + Math.max(1, this.size * 0.15));
    else if (event.key === "Escape") this.#setTool(this.tool);
    else if (TOOLS.some(([, , key]) => key === event.key)) this.#setTool(/** @type {[Tool, string, string]} */ (TOOLS.find(([, , key]) => key === event.key))[0]);
    else if (document.activeElement === this.view.viewer.element) return this.tool !== "move" && this.#moveByKey(event);
    else return false;
    return true;
  }

  /** @param {KeyboardEvent} event */
  #moveByKey(event) {
    const painting = /** @type {Painting} */ (this.painting);
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      const far = event.shiftKey ? 10 : 1;
      const [x, y] = this.at ?? [painting.width / 2, painting.height / 2];
      this.at = [Math.max(0, Math.min(painting.width - 1, x + step[0] * far)), Math.max(0, Math.min(painting.height - 1, y + step[1] * far))];
      this.view.viewer.bringInSight(this.at);
      this.#drawCursor();
      return true;
    }
    if (event.key === " " && this.at && this.tool !== "move") {
      if (this.tool === "lasso") this.corners.push(this.at);
      else {
        this.#use(this.at, this.at);
        void painting.end();
      }
      this.#drawCursor();
      return true;
    }
    if (event.key === "Enter" && this.tool === "lasso") {
      this.#closeLasso(event.shiftKey);
      return true;
    }
    return false;
  }

  /** @param {[number, number]} from @param {[number, number]} to */
  #use(from, to) {
    const painting = /** @type {Painting} */ (this.painting);
    if (this.tool === "fill") void painting.fill(to, 1);
    else void painting.line(from, to, this.size / 2, this.tool === "eraser" ? 0 : 1);
  }

  /** @param {boolean} erase */
  #closeLasso(erase) {
    const painting = /** @type {Painting} */ (this.painting);
    void painting.polygon(this.corners, erase ? 0 : 1);
    void painting.end();
    this.corners = [];
    this.#drawCursor();
  }

  /** A stroke begins. @param {PointerEvent} event */
  start(event) {
    /** @type {[number, number]} */
    const here = this.view.viewer.pixelAt(event);
    this.at = this.last = here;
    if (this.tool === "lasso") this.corners = [here];
    else if (this.tool !== "fill") this.#use(here, here);
    this.#drawCursor();
  }

  /** @param {PointerEvent} event */
  move(event) {
    /** @type {[number, number]} */
    const now = this.view.viewer.pixelAt(event);
    this.at = now;
    if (this.last && this.tool === "lasso") this.corners.push(now);
    else if (this.last && this.tool !== "fill") {
      this.#use(this.last, now);
      this.last = now;
    }
    this.#drawCursor();
  }

  /** @param {PointerEvent} event */
  end(event) {
    if (!this.painting || !this.last) return;
    const erase = event.shiftKey || event.altKey;
    if (this.tool === "fill") void this.painting.fill(this.last, erase ? 0 : 1);
    this.last = null;
    if (this.tool === "lasso") this.#closeLasso(erase);
    else void this.painting.end();
    if (event.pointerType === "touch") this.#drawCursor(true);
  }

  /** It was no stroke: a second finger came. */
  cancel() {
    this.last = null;
    this.corners = [];
    void this.painting?.cancel();
    this.#drawCursor(true);
  }

  /** The pointer passes over the image. @param {PointerEvent} event */
  hover(event) {
    this.at = this.view.viewer.pixelAt(event);
    this.#drawCursor();
  }

  leave() {
    if (!this.last) this.#drawCursor(true);
  }

  /** The brush's circle, or the lasso's line. @param {boolean} [gone] */
  #drawCursor(gone = false) {
    const { viewer } = this.view;
    const context = /** @type {CanvasRenderingContext2D} */ (viewer.cursor.getContext("2d"));
    const ratio = devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, viewer.cursor.width, viewer.cursor.height);
    if (!this.painting || gone) return;
    const scale = viewer.scale * ratio;
    /** @param {[number, number]} point @returns {[number, number]} */
    const placed = ([x, y]) => [(x - viewer.left) * scale, (y - viewer.top) * scale];
    for (const [colour, width] of /** @type {[string, number][]} */ ([["#000", 3 * ratio], ["#fff", 1.2 * ratio]])) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      this.corners.forEach((corner, place) => (place ? context.lineTo(...placed(corner)) : context.moveTo(...placed(corner))));
      context.stroke();
      if (!this.at) continue;
      context.beginPath();
      const [x, y] = placed(this.at);
      if (this.tool === "brush" || this.tool === "eraser") context.arc(x, y, Math.max(1.5, (this.size / 2) * scale), 0, 7);
      context.moveTo(x - 4 * ratio, y);
      context.lineTo(x + 4 * ratio, y);
      context.moveTo(x, y - 4 * ratio);
      context.lineTo(x, y + 4 * ratio);
      context.stroke();
    }
  }
}
