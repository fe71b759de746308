// Shows a page of any size: tiles of the reduced view that fits the zoom, the mask on a canvas above.

import { connection } from "./api.js";
import { el } from "./dom.js";
import { drawShades } from "./draw.js";
import { listen } from "./gestures.js";
import { Overlay } from "./overlay.js";
import { Pictures } from "./pictures.js";

/** @typedef {import("./layers.js").Layer} Layer */

const LARGEST_SCALE = 32; // screen pixels for each pixel of the page

export class Viewer {
  /**
   * @param {Layer} image
   * @param {AbortSignal} signal
   */
  constructor(image, signal) {
    this.image = image;
    this.overlay = new Overlay(image);
    /** What a pointer uses, while something is corrected. @type {import("./gestures.js").Tool | null} */
    this.tool = null;
    this.hidden = false;
    this.window = image.described.window;
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.fitted = true;
    this.pictures = new Pictures();
    this.below = el("canvas", {});
    this.above = el("canvas", { class: "over" });
    this.cursor = el("canvas", { class: "over" });
    this.waitingText = el("span", { class: "waiting" });
    this.element = el("div", { class: "viewer", tabindex: 0, role: "application", "aria-label": "The image. Arrow keys move it, plus and minus zoom, 0 fits it to the view" }, this.below, this.above, this.cursor, this.waitingText);
    this.frame = 0;
    this.sized = false;
    /** Called after each drawing. */
    this.onDraw = () => {};
    image.onTile = () => this.later();
    connection.addEventListener("found", () => this.later(), { signal }); // asks for the tiles that did not come
    const watcher = new ResizeObserver(() => this.#resize());
    watcher.observe(this.element);
    signal.addEventListener("abort", () => {
      watcher.disconnect();
      cancelAnimationFrame(this.frame);
    });
    listen(this, signal);
  }

  /** Draw at the next frame. */
  later() {
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  /** @param {"mask" | "truth" | "probability" | "cleaned"} name @param {Layer | null} layer */
  setLayer(name, layer) {
    this.overlay[name] = layer;
    if (name === "mask") this.overlay.waits = false;
    if (layer) layer.onTile = () => this.later();
    this.redrawOverlay();
  }

  /** Show the image alone, or all again. @param {boolean} hidden whether the overlay is */
  hide(hidden) {
    this.hidden = hidden;
    this.later();
  }

  /** @param {import("./overlay.js").Style} style */
  setStyle(style) {
    this.overlay.style = style;
    this.later();
  }

  /** @param {number} threshold */
  setThreshold(threshold) {
    this.overlay.threshold = threshold;
    this.overlay.cleaned = null;
    this.redrawOverlay();
  }

  /** @param {[number, number]} window */
  setWindow(window) {
    this.window = window;
    this.pictures.forget();
    this.later();
  }

  /** Show the whole page. */
  fit() {
    const { width, height } = this.image.described;
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || !clientHeight) return;
    this.scale = Math.min(clientWidth / width, clientHeight / height);
    this.left = (width - clientWidth / this.scale) / 2;
    this.top = (height - clientHeight / this.scale) / 2;
    this.fitted = true;
    this.later();
  }

  /** @param {number} factor @param {number} [x] on the element @param {number} [y] */
  zoom(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const { width, height } = this.image.described;
    const least = Math.min(this.element.clientWidth / width, this.element.clientHeight / height, 1) / 2;
    const scale = Math.max(least, Math.min(LARGEST_SCALE, this.scale * factor));
    this.left += x / this.scale - x / scale;
    this.top += y / this.scale - y / scale;
    this.scale = scale;
    this.#keepInSight();
  }

  /** @param {number} x in screen pixels @param {number} y */
  pan(x, y) {
    this.left += x / this.scale;
    this.top += y / this.scale;
    this.#keepInSight();
  }

  /** Move the page so that one of its pixels is in sight. @param {[number, number]} place */
  bringInSight([x, y]) {
    const [wide, high] = [this.element.clientWidth / this.scale, this.element.clientHeight / this.scale];
    if (x >= this.left && x < this.left + wide && y >= this.top && y < this.top + high) return;
    this.left = x - wide / 2;
    this.top = y - high / 2;
    this.#keepInSight();
  }

  /** A part of the page stays in sight. */
  #keepInSight() {
    const { width, height } = this.image.described;
    const [wide, high] = [this.element.clientWidth / this.scale, this.element.clientHeight / this.scale];
    this.left = Math.max(-wide * 0.8, Math.min(width - wide * 0.2, this.left));
    this.top = Math.max(-high * 0.8, Math.min(height - high * 0.2, this.top));
    this.fitted = false;
    this.later();
  }

  /** The page's pixel under a point of the screen. @param {{clientX: number, clientY: number}} event @returns {[number, number]} */
  pixelAt({ clientX, clientY }) {
    const box = this.element.getBoundingClientRect();
    return [(clientX - box.left) / this.scale + this.left, (clientY - box.top) / this.scale + this.top];
  }

  #resize() {
    const ratio = devicePixelRatio || 1;
    for (const canvas of [this.below, this.above, this.cursor]) {
      canvas.width = Math.max(1, Math.round(this.element.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(this.element.clientHeight * ratio));
    }
    this.sized = this.element.clientWidth > 0;
    if (this.fitted) this.fit();
    this.draw();
  }

  draw() {
    if (!this.sized) return; // before that nobody knows which view fits
    const ratio = devicePixelRatio || 1;
    const wanted = Math.max(0, Math.floor(-Math.log2(this.scale * ratio) + 0.2));
    const level = Math.min(this.image.described.levels - 1, wanted);
    for (const pictures of [this.pictures, this.overlay.pictures]) pictures.makeRoom(this.#inSight(level).length);
    const missing = this.#drawImage(level, ratio) + this.#drawOverlay(level, ratio);
    this.waitingText.textContent = missing ? "loading …" : "";
    this.element.dataset.ready = missing ? "" : "yes";
    this.onDraw();
  }

  /** @param {number} level @param {number} ratio */
  #drawImage(level, ratio) {
    const context = this.#cleared(this.below, ratio);
    const { tile } = this.image.described;
    let missing = 0;
    for (const [column, row] of this.#inSight(level)) {
      const values = this.image.tile(level, column, row);
      if (values) {
        const picture = this.pictures.get(`${level}/${column}/${row}`, () => drawShades(values, this.window));
        this.#put(context, picture, level, column, row, tile);
      } else {
        missing += 1;
        this.#putCoarser(context, level, column, row);
      }
    }
    return missing;
  }

  /** The part of a coarser tile that is here already. @param {CanvasRenderingContext2D} context @param {number} level @param {number} column @param {number} row */
  #putCoarser(context, level, column, row) {
    const { tile, levels } = this.image.described;
    for (let coarse = level + 1; coarse < levels; coarse += 1) {
      const shrink = 2 ** (coarse - level);
      const [c, r] = [Math.floor(column / shrink), Math.floor(row / shrink)];
      const picture = this.pictures.find(`${coarse}/${c}/${r}`);
      if (!picture) continue;
      const [x, y, side] = [(column / shrink - c) * tile, (row / shrink - r) * tile, tile / shrink];
      const size = tile * 2 ** level;
      const [wide, high] = [Math.min(side, picture.width - x), Math.min(side, picture.height - y)];
      if (wide > 0 && high > 0) context.drawImage(picture, x, y, wide, high, column * size, row * size, wide * 2 ** coarse, high * 2 ** coarse);
      return;
    }
  }

  /** @param {number} level @param {number} ratio */
  #drawOverlay(level, ratio) {
    const context = this.#cleared(this.above, ratio);
    if (this.overlay.style === "off" || this.hidden) return 0;
    const { tile } = this.image.described;
    const painted = this.overlay.paintedIn(level);
    let missing = 0;
    for (const [column, row] of this.#inSight(level)) {
      const picture = this.overlay.picture(level, column, row, painted.get(`${column}/${row}`) ?? []);
      if (picture) this.#put(context, picture, level, column, row, tile);
      else missing += 1;
    }
    return missing;
  }

  /** Tiles of a view that are in sight. @param {number} level @returns {[number, number][]} */
  #inSight(level) {
    const side = this.image.described.tile * 2 ** level;
    const { width, height } = this.image.described;
    const right = Math.min(width, this.left + this.element.clientWidth / this.scale);
    const bottom = Math.min(height, this.top + this.element.clientHeight / this.scale);
    /** @type {[number, number][]} */
    const found = [];
    for (let row = Math.max(0, Math.floor(this.top / side)); row * side < bottom; row += 1) {
      for (let column = Math.max(0, Math.floor(this.left / side)); column * side < right; column += 1) found.push([column, row]);
    }
    return found;
  }

  /** @param {HTMLCanvasElement} canvas @param {number} ratio */
  #cleared(canvas, ratio) {
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const scale = this.scale * ratio;
    context.setTransform(scale, 0, 0, scale, -this.left * scale, -this.top * scale);
    context.imageSmoothingEnabled = scale < 2;
    return context;
  }

  /** @param {CanvasRenderingContext2D} context @param {OffscreenCanvas} picture @param {number} level @param {number} column @param {number} row @param {number} tile */
  #put(context, picture, level, column, row, tile) {
    const grow = 2 ** level;
    context.drawImage(picture, column * tile * grow, row * tile * grow, picture.width * grow, picture.height * grow);
  }

  /** Forget what was drawn of the overlay. */
  redrawOverlay() {
    this.overlay.pictures.forget();
    this.later();
  }
}
