// The tools that paint, used by pointer or by keys, and their cursor over the image.

import { polygon, stroke } from "./shapes.js";

/** @typedef {"brush" | "eraser" | "fill" | "lasso" | "move"} Tool */
/** @typedef {import("./paint.js").Painting} Painting */

/** Each tool, what it is called, and its key. @type {[Tool, string, string][]} */
export const TOOLS = [["brush", "Brush", "b"], ["eraser", "Eraser", "e"], ["fill", "Fill", "h"], ["lasso", "Lasso", "l"], ["move", "Move", "m"]];
export const LARGEST = 200; // pixels across the brush

export class Tools {
  /** @param {import("./viewer.js").Viewer} viewer @param {() => void} changed called when another tool or size was chosen */
  constructor(viewer, changed) {
    this.viewer = viewer;
    this.changed = changed;
    /** @type {Painting | null} */
    this.painting = null;
    /** @type {Tool} */
    this.tool = "brush";
    this.size = 8;
    /** The lasso's line so far. @type {[number, number][]} */
    this.corners = [];
    /** Where the stroke under way has come to. @type {[number, number] | null} */
    this.last = null;
    /** Where the cursor is drawn. @type {[number, number] | null} */
    this.at = null;
  }

  /** Whether a stroke or a lasso is under way. */
  get busy() {
    return this.last !== null || this.corners.length > 0;
  }

  /** Paint on this from now on; null puts the tools away. @param {Painting | null} painting */
  paintOn(painting) {
    this.painting = painting;
    this.at = null;
    this.#takePointer();
    this.#drawCursor();
  }

  /** @param {Tool} tool */
  choose(tool) {
    this.tool = tool;
    this.corners = [];
    this.#takePointer();
    this.changed();
    this.#drawCursor();
  }

  /** The pointer uses the tool, or moves the page. */
  #takePointer() {
    const { viewer } = this;
    viewer.tool = this.painting && this.tool !== "move" ? this : null;
    viewer.element.classList.toggle("painting", viewer.tool !== null);
  }

  /** @param {number} size */
  setSize(size) {
    this.size = Math.max(1, Math.min(LARGEST, Math.round(size)));
    this.changed();
    this.#drawCursor();
  }

  /** Use a key that chooses a tool or a size, or moves the tool over the image. @param {KeyboardEvent} event */
  onKey(event) {
    const chosen = TOOLS.find(([, , key]) => key === event.key);
    if (event.key === "[") this.setSize(this.size - Math.max(1, this.size * 0.15));
    else if (event.key === "]") this.setSize(this.size + Math.max(1, this.size * 0.15));
    else if (event.key === "Escape") this.choose(this.tool);
    else if (chosen) this.choose(chosen[0]);
    else if (document.activeElement === this.viewer.element) return this.tool !== "move" && this.#moveByKey(event);
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
      this.viewer.bringInSight(this.at);
      this.#drawCursor();
      return true;
    }
    if (event.key === " " && this.at) {
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
    else void painting.cover(stroke(from, to, this.size / 2), this.tool === "eraser" ? 0 : 1);
  }

  /** @param {boolean} erase */
  #closeLasso(erase) {
    const painting = /** @type {Painting} */ (this.painting);
    if (this.corners.length > 2) void painting.cover(polygon(this.corners), erase ? 0 : 1);
    void painting.end();
    this.corners = [];
    this.#drawCursor();
  }

  /** A stroke begins. @param {PointerEvent} event */
  start(event) {
    /** @type {[number, number]} */
    const here = this.viewer.pixelAt(event);
    this.at = this.last = here;
    if (this.tool === "lasso") this.corners = [here];
    else if (this.tool !== "fill") this.#use(here, here);
    this.#drawCursor();
  }

  /** @param {PointerEvent} event */
  move(event) {
    /** @type {[number, number]} */
    const now = this.viewer.pixelAt(event);
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
    this.at = this.viewer.pixelAt(event);
    this.#drawCursor();
  }

  leave() {
    if (!this.last) this.#drawCursor(true);
  }

  /** The brush's circle, or the lasso's line. @param {boolean} [gone] */
  #drawCursor(gone = false) {
    const { viewer } = this;
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
