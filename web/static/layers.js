// A layer of a page, as tiles of values: the image's shades, the mask, the probabilities, the ground truth.

import { call, get, isLeft } from "./api.js";

/**
 * @typedef {object} Described as cytomask.web.raster.Raster describes itself
 * @property {number} height
 * @property {number} width
 * @property {number} tile side of a tile in pixels
 * @property {number} levels how many reduced views there are
 * @property {number} bits of a value
 * @property {number} low
 * @property {number} step
 * @property {string} dtype
 * @property {[number, number]} window the contrast to begin with, in stored values
 * @property {[number, number]} range
 * @property {string} opened names the layer to the server
 * @property {number[]} [confluence] at the thresholds 0, 0.001 … 1
 */
/**
 * @typedef {object} Tile
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array | Uint16Array} values
 */

const SMALL = 1e6; // pixels: a page that is shown whole in four tiles
const MOST_TILES = 320; // of each layer: at most 160 MB

export class Layer {
  /**
   * @param {string} job
   * @param {number} page
   * @param {string} name image, mask, probability or truth
   * @param {Described} described
   * @param {AbortSignal} signal
   */
  constructor(job, page, name, described, signal) {
    this.path = `jobs/${job}/pages/${page}/${name}`;
    this.name = name;
    this.described = described;
    this.signal = signal;
    /** @type {Map<string, Tile>} */
    this.tiles = new Map();
    /** @type {Map<string, Promise<Tile>>} */
    this.coming = new Map();
    /** Called when a tile has come. */
    this.onTile = () => {};
  }

  /**
   * @param {string} job
   * @param {number} page
   * @param {string} name
   * @param {AbortSignal} signal
   */
  static async open(job, page, name, signal) {
    const described = await get(`jobs/${job}/pages/${page}/${name}`, signal);
    const layer = new Layer(job, page, name, described, signal);
    if (described.width * described.height <= SMALL) layer.#loadAll(); // while the view is being built
    return layer;
  }

  #loadAll() {
    const { width, height, tile } = this.described;
    for (let row = 0; row * tile < height; row += 1) {
      for (let column = 0; column * tile < width; column += 1) this.load(0, column, row).catch(() => {});
    }
  }

  /**
   * A tile if it is here; asks for it if not.
   * @param {number} level
   * @param {number} column
   * @param {number} row
   * @returns {Tile | undefined}
   */
  tile(level, column, row) {
    const key = `${level}/${column}/${row}`;
    const found = this.tiles.get(key);
    if (found) {
      this.tiles.delete(key);
      this.tiles.set(key, found); // the one used last goes last
      return found;
    }
    this.load(level, column, row).catch(() => {}); // who draws asks again
    return undefined;
  }

  /**
   * @param {number} level
   * @param {number} column
   * @param {number} row
   * @returns {Promise<Tile>}
   */
  load(level, column, row) {
    const key = `${level}/${column}/${row}`;
    const found = this.tiles.get(key);
    if (found) return Promise.resolve(found);
    let coming = this.coming.get(key);
    if (!coming) {
      coming = this.#fetch(key).finally(() => this.coming.delete(key));
      this.coming.set(key, coming);
    }
    return coming;
  }

  /** @param {string} key */
  async #fetch(key) {
    try {
      const response = await call(`${this.path}/${key}?opened=${this.described.opened}`, { signal: this.signal });
      const bytes = await response.arrayBuffer();
      const values = this.described.bits === 8 ? new Uint8Array(bytes) : new Uint16Array(bytes);
      const tile = { width: Number(response.headers.get("x-width")), height: Number(response.headers.get("x-height")), values };
      this.tiles.set(key, tile);
      for (const old of this.tiles.keys()) {
        if (this.tiles.size <= MOST_TILES) break;
        this.tiles.delete(old);
      }
      this.onTile();
      return tile;
    } catch (error) {
      if (!isLeft(error)) console.warn(error);
      throw error;
    }
  }

  /** Width and height of a reduced view. @param {number} level @returns {[number, number]} */
  size(level) {
    const { width, height } = this.described;
    return [Math.ceil(width / 2 ** level), Math.ceil(height / 2 ** level)];
  }
}
