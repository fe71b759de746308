// A layer of a page, as tiles of values: the image's shades, the mask, the probabilities, the ground truth.

import { call, isLeft } from "./api.js";

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
 * @property {number[]} [confluence] at the thresholds 0, 0.001 … 1, of probabilities
 * @property {number} [share] of the page that is cell, of cleaned cells
 */
/**
 * @typedef {object} Tile
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array | Uint16Array} values
 */

const NEWLINE = 10;
const MOST_TILES = 320; // of each layer: at most 160 MB

export class Layer {
  /**
   * @param {string} job
   * @param {number} page
   * @param {string} name image, mask, probability, cleaned or truth
   * @param {Described} described
   * @param {AbortSignal} signal
   * @param {Record<string, string>} asked what the address says beside
   */
  constructor(job, page, name, described, signal, asked) {
    this.path = `jobs/${job}/pages/${page}/${name}`;
    this.query = new URLSearchParams({ ...asked, opened: described.opened });
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
   * @param {Record<string, string>} [asked] the threshold, of cleaned cells
   */
  static async open(job, page, name, signal, asked = {}) {
    const response = await call(`jobs/${job}/pages/${page}/${name}?${new URLSearchParams(asked)}`, { signal });
    const body = new Uint8Array(await response.arrayBuffer());
    const end = body.indexOf(NEWLINE);
    const layer = new Layer(job, page, name, JSON.parse(new TextDecoder().decode(body.subarray(0, end))), signal, asked);
    if (end + 1 < body.length) layer.#cut(body.slice(end + 1));
    return layer;
  }

  /** Cut a small page, which comes whole, into its tiles. @param {Uint8Array<ArrayBuffer>} body */
  #cut(body) {
    const { width, height, tile } = this.described;
    const whole = this.#values(body.buffer);
    for (let top = 0; top < height; top += tile) {
      for (let left = 0; left < width; left += tile) {
        const [wide, high] = [Math.min(tile, width - left), Math.min(tile, height - top)];
        const values = this.#values(new ArrayBuffer(wide * high * whole.BYTES_PER_ELEMENT));
        for (let row = 0; row < high; row += 1) values.set(whole.subarray((top + row) * width + left, (top + row) * width + left + wide), row * wide);
        this.tiles.set(`0/${left / tile}/${top / tile}`, { width: wide, height: high, values });
      }
    }
  }

  /** @param {ArrayBuffer} bytes */
  #values(bytes) {
    return this.described.bits === 8 ? new Uint8Array(bytes) : new Uint16Array(bytes);
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
      const response = await call(`${this.path}/${key}?${this.query}`, { signal: this.signal });
      const values = this.#values(await response.arrayBuffer());
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
