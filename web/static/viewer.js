// Shows a page of any size: tiles of the reduced view that fits the zoom, the mask on a canvas above.

import { cellsOf, drawDisagreement, drawMask, drawShades } from "./draw.js";
import { el } from "./dom.js";
import { listen } from "./gestures.js";

/** @typedef {import("./layers.js").Layer} Layer */
/** @typedef {import("./draw.js").Cells} Cells */
/** @typedef {"off" | "outline" | "filled" | "truth" | "disagreement"} Overlay */

const FEWEST_PICTURES = 96; // that are kept: at most a megabyte each
const LARGEST_SCALE = 32; // screen pixels for each pixel of the page
const PROBABLE = 65535;

/**
 * What is painted, as the viewer sees it.
 * @typedef {object} Painted
 * @property {number} tile
 * @property {Map<string, Uint8Array>} tiles full tiles of level 0 by "column/row"
 * @property {Map<string, number>} changes the number of each changed tile's newest change
 * @property {(key: string, level: number) => Uint8Array} reduced a tile as a reduced view shows it
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
    /** Layers that are on their way: the view is not ready without them. @type {Set<string>} */
    this.coming = new Set();
    /** @type {Painted | null} */
    this.painted = null;
    /** What a pointer uses, while something is corrected. @type {import("./gestures.js").Tool | null} */
    this.tool = null;
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
    this.most = FEWEST_PICTURES;
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

  /** @param {"mask" | "truth" | "probability"} name @param {Layer | null} layer */
  setLayer(name, layer) {
    this[name] = layer;
    this.coming.delete(name);
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
    this.most = Math.max(FEWEST_PICTURES, 3 * this.#inSight(level).length); // a large screen shows many at once
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
    const painted = this.#paintedIn(level);
    let missing = 0;
    for (const [column, row] of this.#inSight(level)) {
      const picture = this.#overlayPicture(level, column, row, painted.get(`${column}/${row}`) ?? []);
      if (picture) this.#put(context, picture, level, column, row, tile);
      else missing += 1;
    }
    return missing;
  }

  /** The painted tiles that lie under each tile of a view. @param {number} level @returns {Map<string, string[]>} */
  #paintedIn(level) {
    /** @type {Map<string, string[]>} */
    const found = new Map();
    if (this.overlay === "truth") return found;
    for (const key of this.painted?.changes.keys() ?? []) {
      const [column, row] = key.split("/").map(Number);
      const above = `${column >> level}/${row >> level}`;
      const keys = found.get(above);
      if (keys) keys.push(key);
      else found.set(above, [key]);
    }
    return found;
  }

  /** @param {number} level @param {number} column @param {number} row @param {string[]} painted tiles under it @returns {OffscreenCanvas | null} */
  #overlayPicture(level, column, row, painted) {
    const change = Math.max(0, ...painted.map((each) => this.painted?.changes.get(each) ?? 0));
    const key = `o${this.overlay}${this.painted ? "p" : ""}${level}/${column}/${row}#${change}`;
    const found = this.pictures.get(key);
    if (found) return found;
    const truth = this.overlay === "truth" || this.overlay === "disagreement" ? this.#truthCells(level, column, row) : null;
    if (this.overlay === "truth") return truth && this.#picture(key, () => drawMask(truth, "outline", true));
    const cells = this.#cells(level, column, row, painted);
    if (!cells) return null;
    if (this.overlay === "disagreement") return truth && this.#picture(key, () => drawDisagreement(cells, truth));
    const style = this.overlay === "filled" ? "filled" : "outline";
    return this.#picture(key, () => drawMask(cells, style, false));
  }

  /** The cells as they are shown: painted, or by the threshold, or as the mask was stored. @param {number} level @param {number} column @param {number} row @param {string[]} painted tiles under it @returns {Cells | null} */
  #cells(level, column, row, painted) {
    if (this.painted) {
      const [width, height] = this.#tileSize(level, column, row);
      const whole = level === 0 && painted.length ? this.painted.tiles.get(painted[0]) : undefined;
      if (whole) return { width, height, values: cut(whole, this.painted.tile, width, height) };
      const cells = this.#base(level, column, row);
      if (cells) for (const key of painted) this.#putPainted(cells, key, level);
      return cells;
    }
    if (this.probability) {
      const tile = this.probability.tile(level, column, row);
      return tile ? cellsOf(tile, Math.ceil(this.threshold * PROBABLE - 0.5)) : null;
    }
    return this.#base(level, column, row);
  }

  /** Put a painted tile into the cells of the reduced view's tile above it. @param {Cells} cells @param {string} key @param {number} level */
  #putPainted(cells, key, level) {
    if (!this.painted) return;
    const values = this.painted.reduced(key, level);
    const side = this.painted.tile >> level;
    const [left, top] = key.split("/").map((at) => (Number(at) % (1 << level)) * side);
    const wide = Math.min(side, cells.width - left);
    for (let y = 0; y < side && top + y < cells.height; y += 1) {
      cells.values.set(values.subarray(y * side, y * side + wide), (top + y) * cells.width + left);
    }
  }

  /** What was painted on, or the mask. @param {number} level @param {number} column @param {number} row @returns {Cells | null} */
  #base(level, column, row) {
    const layer = this.base === undefined ? this.mask : this.base;
    if (!layer && this.base === undefined && this.coming.has("mask")) return null;
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
      if (this.pictures.size <= this.most) break;
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
