// Shows a page of any size: tiles of the reduced view that fits the zoom, the mask on a canvas above.

import { cellsOf, drawDisagreement, drawMask, drawShades } from "./draw.js";
import { el } from "./dom.js";

/** @typedef {import("./layers.js").Layer} Layer */
/** @typedef {import("./draw.js").Cells} Cells */
/** @typedef {"off" | "outline" | "filled" | "truth" | "disagreement"} Overlay */

const MOST_PICTURES = 400;
const LARGEST_SCALE = 32; // screen pixels for each pixel of the page
const PROBABLE = 65535;

/**
 * What is painted, as the viewer sees it.
 * @typedef {object} Painted
 * @property {number} tile
 * @property {Map<string, Uint8Array>} tiles full tiles of level 0 by "column/row"
 * @property {Map<string, number>} changes how often each tile has changed
 */

export class Viewer {
  /**
   * @param {Layer} image
   * @param {AbortSignal} signal
   */
  constructor(image, signal) {
    this.image = image;
    /** @type {Layer | null} */
    this.mask = null;
    /** @type {Layer | null} */
    this.truth = null;
    /** @type {Layer | null} */
    this.probability = null;
    /** @type {Painted | null} */
    this.painted = null;
    this.threshold = 0.5;
    /** @type {Overlay} */
    this.overlay = "outline";
    this.hidden = false;
    this.window = image.described.window;
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.fitted = true;
    /** @type {Map<string, OffscreenCanvas>} */
    this.pictures = new Map();
    this.below = el("canvas", {});
    this.above = el("canvas", { class: "over" });
    this.cursor = el("canvas", { class: "over" });
    this.waitingText = el("span", { class: "waiting" });
    this.element = el("div", { class: "viewer", tabindex: 0, role: "application", "aria-label": "The image. Arrow keys move, plus and minus zoom, 0 fits it in" }, this.below, this.above, this.cursor, this.waitingText);
    this.frame = 0;
    this.sized = false;
    /** Called after each drawing. */
    this.onDraw = () => {};
    image.onTile = () => this.later();
    const watcher = new ResizeObserver(() => this.#resize());
    watcher.observe(this.element);
    signal.addEventListener("abort", () => {
      watcher.disconnect();
      cancelAnimationFrame(this.frame);
    });
    this.#listen(signal);
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

  /** @param {"mask" | "truth" | "probability"} name @param {Layer | null} layer */
  setLayer(name, layer) {
    this[name] = layer;
    if (layer) layer.onTile = () => this.later();
    this.#forget("o");
    this.later();
  }

  /** @param {Overlay} overlay */
  setOverlay(overlay) {
    this.overlay = overlay;
    this.later();
  }

  /** @param {number} threshold */
  setThreshold(threshold) {
    this.threshold = threshold;
    this.#forget("o");
    this.later();
  }

  /** @param {[number, number]} window */
  setWindow(window) {
    this.window = window;
    this.#forget("i");
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
        const picture = this.#picture(`i${level}/${column}/${row}`, () => drawShades(values, this.window));
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
      const picture = this.pictures.get(`i${coarse}/${c}/${r}`);
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
    if (this.overlay === "off" || this.hidden) return 0;
    const { tile } = this.image.described;
    let missing = 0;
    for (const [column, row] of this.#inSight(level)) {
      const picture = this.#overlayPicture(level, column, row);
      if (picture) this.#put(context, picture, level, column, row, tile);
      else missing += 1;
    }
    if (level > 0 && this.painted && this.overlay !== "truth") {
      for (const key of this.painted.changes.keys()) {
        const [column, row] = key.split("/").map(Number);
        const picture = this.#overlayPicture(0, column, row);
        if (!picture) continue;
        context.clearRect(column * tile, row * tile, picture.width, picture.height);
        this.#put(context, picture, 0, column, row, tile);
      }
    }
    return missing;
  }

  /** @param {number} level @param {number} column @param {number} row @returns {OffscreenCanvas | null} */
  #overlayPicture(level, column, row) {
    const change = (level === 0 && this.painted?.changes.get(`${column}/${row}`)) || 0;
    const key = `o${this.overlay}${this.painted ? "p" : ""}${level}/${column}/${row}#${change}`;
    const found = this.pictures.get(key);
    if (found) return found;
    const truth = this.overlay === "truth" || this.overlay === "disagreement" ? this.#truthCells(level, column, row) : null;
    if (this.overlay === "truth") return truth && this.#picture(key, () => drawMask(truth, "outline", true));
    const cells = this.cells(level, column, row);
    if (!cells) return null;
    if (this.overlay === "disagreement") return truth && this.#picture(key, () => drawDisagreement(cells, truth));
    const style = this.overlay === "filled" ? "filled" : "outline";
    return this.#picture(key, () => drawMask(cells, style, false));
  }

  /** The cells as they are shown: painted, or by the threshold, or as the mask was stored. @param {number} level @param {number} column @param {number} row @returns {Cells | null} */
  cells(level, column, row) {
    const [width, height] = this.#tileSize(level, column, row);
    const mine = level === 0 && this.painted?.tiles.get(`${column}/${row}`);
    if (mine && this.painted?.changes.has(`${column}/${row}`)) return { width, height, values: cut(mine, this.painted.tile, width, height) };
    if (this.painted) return this.#base(level, column, row);
    if (this.probability) {
      const tile = this.probability.tile(level, column, row);
      return tile ? cellsOf(tile, Math.ceil(this.threshold * PROBABLE - 0.5)) : null;
    }
    return this.#base(level, column, row);
  }

  /** What was painted on, or the mask. @param {number} level @param {number} column @param {number} row @returns {Cells | null} */
  #base(level, column, row) {
    const layer = this.base === undefined ? this.mask : this.base;
    if (!layer) {
      const [width, height] = this.#tileSize(level, column, row);
      return { width, height, values: new Uint8Array(width * height) };
    }
    const tile = layer.tile(level, column, row);
    return tile ? cellsOf(tile, 128) : null;
  }

  /** What is painted on: a layer, null for an empty page; undefined where nothing is painted. @type {Layer | null | undefined} */
  base = undefined;

  /** @param {number} level @param {number} column @param {number} row @returns {Cells | null} */
  #truthCells(level, column, row) {
    const tile = this.truth?.tile(level, column, row);
    return tile ? cellsOf(tile, 128) : null;
  }

  /** @param {number} level @param {number} column @param {number} row @returns {[number, number]} */
  #tileSize(level, column, row) {
    const { tile } = this.image.described;
    const [width, height] = this.image.size(level);
    return [Math.min(tile, width - column * tile), Math.min(tile, height - row * tile)];
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

  /** @param {string} key @param {() => OffscreenCanvas} make */
  #picture(key, make) {
    const found = this.pictures.get(key) ?? make();
    this.pictures.delete(key);
    this.pictures.set(key, found);
    for (const old of this.pictures.keys()) {
      if (this.pictures.size <= MOST_PICTURES) break;
      this.pictures.delete(old);
    }
    return found;
  }

  /** @param {string} kind i or o: of the image or of the overlay */
  #forget(kind) {
    for (const key of this.pictures.keys()) if (key.startsWith(kind)) this.pictures.delete(key);
  }

  /** Forget what was drawn of the overlay. */
  redrawOverlay() {
    this.#forget("o");
    this.later();
  }

  /** Wheel, pinch, drag. Painting takes the pointer first, where it is on. @param {AbortSignal} signal */
  #listen(signal) {
    /** @type {Map<number, {x: number, y: number}>} */
    const fingers = new Map();
    const target = this.element;
    target.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = target.getBoundingClientRect();
      const fine = event.ctrlKey ? 0.01 : 0.0015; // a touchpad's pinch comes as a wheel with Ctrl
      this.zoom(Math.exp(-event.deltaY * fine * (event.deltaMode ? 16 : 1)), event.clientX - box.left, event.clientY - box.top);
    }, { signal, passive: false });
    target.addEventListener("pointerdown", (event) => {
      if (event.defaultPrevented) return;
      target.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      target.classList.add("panning");
    }, { signal });
    target.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const now = { x: event.clientX, y: event.clientY };
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const box = target.getBoundingClientRect();
        const [was, is] = [Math.hypot(before.x - other.x, before.y - other.y), Math.hypot(now.x - other.x, now.y - other.y)];
        this.zoom(is / Math.max(1, was), (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
      } else {
        this.pan(before.x - now.x, before.y - now.y);
      }
      fingers.set(event.pointerId, now);
    }, { signal });
    for (const end of ["pointerup", "pointercancel"]) {
      target.addEventListener(end, (event) => {
        fingers.delete(/** @type {PointerEvent} */ (event).pointerId);
        if (!fingers.size) target.classList.remove("panning");
      }, { signal });
    }
  }
}

/**
 * The part of a full tile that lies on the page.
 * @param {Uint8Array} values
 * @param {number} tile
 * @param {number} width
 * @param {number} height
 */
function cut(values, tile, width, height) {
  if (width === tile && height === tile) return values;
  const kept = new Uint8Array(width * height);
  for (let row = 0; row < height; row += 1) kept.set(values.subarray(row * tile, row * tile + width), row * width);
  return kept;
}
