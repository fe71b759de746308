// What is drawn over the image: the mask, as it was stored, thresholded or painted, and the ground truth.

import { cellsOf, drawDisagreement, drawMask } from "./draw.js";
import { Pictures } from "./pictures.js";

/** @typedef {import("./layers.js").Layer} Layer */
/** @typedef {import("./draw.js").Cells} Cells */
/** @typedef {"off" | "outline" | "filled" | "truth" | "disagreement"} Style */

const PROBABLE = 65535;
const MIDDLE = 128; // a reduced view of 0 and 255 holds means

/**
 * What is painted, as the viewer sees it.
 * @typedef {object} Painted
 * @property {number} tile
 * @property {Map<string, Uint8Array>} tiles full tiles of level 0 by "column/row"
 * @property {Map<string, number>} changes the number of each changed tile's newest change
 * @property {(key: string, level: number) => Uint8Array} reduced a tile as a reduced view shows it
 */

export class Overlay {
  /** @param {Layer} image */
  constructor(image) {
    this.image = image;
    /** @type {Layer | null} */
    this.mask = null;
    /** @type {Layer | null} */
    this.truth = null;
    /** Takes the mask's place while the threshold is tried out. @type {Layer | null} */
    this.probability = null;
    /** The cells at the threshold, cleaned as the request asks; takes the place of the probabilities. @type {Layer | null} */
    this.cleaned = null;
    this.threshold = 0.5;
    /** @type {Painted | null} */
    this.painted = null;
    /** What is painted on: a layer, or null for an empty page; undefined where nothing is painted. @type {Layer | null | undefined} */
    this.base = undefined;
    /** Whether the mask is on its way: without it nothing is drawn. */
    this.waits = true;
    /** @type {Style} */
    this.style = "outline";
    this.pictures = new Pictures();
  }

  /** The painted tiles that lie under each tile of a view. @param {number} level @returns {Map<string, string[]>} */
  paintedIn(level) {
    /** @type {Map<string, string[]>} */
    const found = new Map();
    if (this.style === "truth") return found;
    for (const key of this.painted?.changes.keys() ?? []) {
      const [column, row] = key.split("/").map(Number);
      const above = `${column >> level}/${row >> level}`;
      const keys = found.get(above);
      if (keys) keys.push(key);
      else found.set(above, [key]);
    }
    return found;
  }

  /** Draw one tile; null where its layers are still on their way. @param {number} level @param {number} column @param {number} row @param {string[]} painted tiles under it @returns {OffscreenCanvas | null} */
  picture(level, column, row, painted) {
    const change = Math.max(0, ...painted.map((each) => this.painted?.changes.get(each) ?? 0));
    const key = `${this.style}${this.painted ? "p" : ""}${level}/${column}/${row}#${change}`;
    const found = this.pictures.find(key);
    if (found) return found;
    const truth = this.style === "truth" || this.style === "disagreement" ? this.#truthCells(level, column, row) : null;
    if (this.style === "truth") return truth && this.pictures.get(key, () => drawMask(truth, "outline", true));
    const cells = this.#cells(level, column, row, painted);
    if (!cells) return null;
    if (this.style === "disagreement") return truth && this.pictures.get(key, () => drawDisagreement(cells, truth));
    const style = this.style === "filled" ? "filled" : "outline";
    return this.pictures.get(key, () => drawMask(cells, style, false));
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
    if (this.cleaned) {
      const tile = this.cleaned.tile(level, column, row);
      return tile ? cellsOf(tile, MIDDLE) : null;
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
    if (!layer && this.base === undefined && this.waits) return null;
    if (!layer) {
      const [width, height] = this.#tileSize(level, column, row);
      return { width, height, values: new Uint8Array(width * height) };
    }
    const tile = layer.tile(level, column, row);
    return tile ? cellsOf(tile, MIDDLE) : null;
  }

  /** @param {number} level @param {number} column @param {number} row @returns {Cells | null} */
  #truthCells(level, column, row) {
    const tile = this.truth?.tile(level, column, row);
    return tile ? cellsOf(tile, MIDDLE) : null;
  }

  /** @param {number} level @param {number} column @param {number} row @returns {[number, number]} */
  #tileSize(level, column, row) {
    const { tile } = this.image.described;
    const [width, height] = this.image.size(level);
    return [Math.min(tile, width - column * tile), Math.min(tile, height - row * tile)];
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
