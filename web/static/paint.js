// The painted mask: tiles of 0 and 1 at full resolution, made from the layer it started from, with undo.

import { fillTile } from "./fill.js";

/** @typedef {import("./layers.js").Layer} Layer */

const MOST_UNDO_BYTES = 96e6;

export class Painting {
  /**
   * @param {Layer | null} base the layer it starts from; null for an empty page
   * @param {import("./layers.js").Described} described of the page
   */
  constructor(base, described) {
    this.base = base;
    this.width = described.width;
    this.height = described.height;
    this.tile = described.tile;
    /** @type {Map<string, Uint8Array>} */
    this.tiles = new Map();
    /** The number of each painted tile's newest change; unchanged tiles are missing. @type {Map<string, number>} */
    this.changes = new Map();
    this.counted = 0;
    /** Tiles that changed since they were last kept. @type {Set<string>} */
    this.unkept = new Set();
    /** @type {Map<string, {change: number, values: Uint8Array}>} */
    this.small = new Map();
    this.smallLevel = 0;
    /** @type {Map<string, Uint8Array>[]} */
    this.undone = [];
    /** @type {Map<string, Uint8Array>[]} */
    this.done = [];
    /** The tiles that the current stroke touched, as they were before. @type {Map<string, Uint8Array>} */
    this.stroke = new Map();
    /** Strokes run one after another, because tiles have to be fetched. @type {Promise<void>} */
    this.queue = Promise.resolve();
    this.onChange = () => {};
  }

  /** Whether anything was painted. */
  get touched() {
    return this.changes.size > 0;
  }

  /** The painted tiles. @returns {[number, number, Uint8Array][]} */
  changed() {
    return this.#named(this.changes.keys());
  }

  /** The tiles that changed since the last call. @returns {[number, number, Uint8Array][]} */
  takeUnkept() {
    const found = this.#named(this.unkept);
    this.unkept.clear();
    return found;
  }

  /** @param {Iterable<string>} keys @returns {[number, number, Uint8Array][]} */
  #named(keys) {
    return [...keys].map((key) => {
      const [column, row] = key.split("/").map(Number);
      return [column, row, /** @type {Uint8Array} */ (this.tiles.get(key))];
    });
  }

  /**
   * A painted tile as a reduced view shows it: 1 where at least half of the pixels are cells.
   * @param {string} key column/row
   * @param {number} level
   * @returns {Uint8Array} row by row, tile / 2 ** level a side
   */
  reduced(key, level) {
    if (level !== this.smallLevel) this.small.clear();
    this.smallLevel = level;
    const change = this.changes.get(key) ?? 0;
    const found = this.small.get(key);
    if (found?.change === change) return found.values;
    const full = /** @type {Uint8Array} */ (this.tiles.get(key));
    const [side, half] = [this.tile >> level, (1 << (2 * level)) >> 1];
    const sums = new Uint32Array(side * side);
    for (let y = 0, place = 0; y < this.tile; y += 1) {
      const line = (y >> level) * side;
      for (let x = 0; x < this.tile; x += 1, place += 1) sums[line + (x >> level)] += full[place];
    }
    const values = Uint8Array.from(sums, (sum) => (sum >= half ? 1 : 0));
    this.small.set(key, { change, values });
    return values;
  }

  /**
   * Take over tiles that were painted in an earlier session.
   * @param {[number, number, Uint8Array][]} tiles
   */
  restore(tiles) {
    for (const [column, row, values] of tiles) {
      this.tiles.set(`${column}/${row}`, values);
      this.#note(`${column}/${row}`);
    }
    this.unkept.clear();
    this.onChange();
  }

  /**
   * Run something when all earlier strokes are done.
   * @param {() => void | Promise<void>} act
   */
  next(act) {
    this.queue = this.queue.then(act).catch((error) => console.warn(error));
    return this.queue;
  }

  /**
   * Give every pixel of a shape the value.
   * @param {import("./shapes.js").Shape} shape
   * @param {0 | 1} value
   */
  cover(shape, value) {
    return this.next(() => this.#cover(shape, value));
  }

  /**
   * Give the value to a pixel and to everything connected to it that lacks the value.
   * @param {[number, number]} start
   * @param {0 | 1} value
   * @returns {Promise<void>}
   */
  fill(start, value) {
    return this.next(async () => {
      const [x, y] = [Math.floor(start[0]), Math.floor(start[1])];
      if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
      const { tile } = this;
      /** Where the fill enters each tile. @type {Map<string, number[]>} */
      const waiting = new Map([[`${Math.floor(x / tile)}/${Math.floor(y / tile)}`, [(y % tile) * tile + (x % tile)]]]);
      for (const [key, entries] of waiting) { // a Map's loop also visits what is added while it runs
        waiting.delete(key);
        const [column, row] = key.split("/").map(Number);
        const values = await this.#load(column, row);
        const before = this.stroke.has(key) ? null : values.slice();
        const reached = fillTile(values, tile, Math.min(tile, this.width - column * tile), Math.min(tile, this.height - row * tile), entries, value);
        if (!reached.changed) continue;
        if (before) this.stroke.set(key, before);
        this.#note(key);
        for (const [dx, dy, places] of /** @type {[number, number, number[]][]} */ ([[-1, 0, reached.left], [1, 0, reached.right], [0, -1, reached.above], [0, 1, reached.below]])) {
          const [c, r] = [column + dx, row + dy];
          if (!places.length || c < 0 || r < 0 || c * tile >= this.width || r * tile >= this.height) continue;
          waiting.set(`${c}/${r}`, [...(waiting.get(`${c}/${r}`) ?? []), ...places]);
        }
        this.onPaint();
      }
    });
  }

  /** End a stroke: it can be undone as one. */
  end() {
    return this.next(() => {
      if (!this.stroke.size) return;
      for (const key of this.stroke.keys()) this.#note(key);
      this.done.push(this.stroke);
      this.stroke = new Map();
      this.undone = [];
      let kept = 0;
      for (let place = this.done.length - 1; place >= 0; place -= 1) {
        kept += this.done[place].size * this.tile * this.tile;
        if (kept > MOST_UNDO_BYTES) {
          this.done.splice(0, place);
          break;
        }
      }
      this.onChange();
    });
  }

  /** Take back the stroke that is being painted. */
  cancel() {
    return this.next(() => {
      for (const [key, before] of this.stroke) {
        this.tiles.set(key, before);
        this.#note(key);
      }
      this.stroke = new Map();
      this.onPaint();
    });
  }

  undo() {
    return this.next(() => this.#swap(this.done, this.undone));
  }

  redo() {
    return this.next(() => this.#swap(this.undone, this.done));
  }

  /** @param {Map<string, Uint8Array>[]} from @param {Map<string, Uint8Array>[]} to */
  #swap(from, to) {
    const stroke = from.pop();
    if (!stroke) return;
    /** @type {Map<string, Uint8Array>} */
    const other = new Map();
    for (const [key, before] of stroke) {
      other.set(key, /** @type {Uint8Array} */ (this.tiles.get(key)));
      this.tiles.set(key, before);
      this.#note(key);
    }
    to.push(other);
    this.onChange();
  }

  /** @param {import("./shapes.js").Shape} shape @param {0 | 1} value */
  async #cover({ left, top, right, bottom, covers }, value) {
    const [x0, y0] = [Math.max(0, Math.floor(left)), Math.max(0, Math.floor(top))];
    const [x1, y1] = [Math.min(this.width - 1, Math.ceil(right)), Math.min(this.height - 1, Math.ceil(bottom))];
    for (let row = Math.floor(y0 / this.tile); row * this.tile <= y1; row += 1) {
      for (let column = Math.floor(x0 / this.tile); column * this.tile <= x1; column += 1) {
        const values = await this.#load(column, row);
        const key = `${column}/${row}`;
        const [fromX, toX] = [Math.max(x0, column * this.tile), Math.min(x1, (column + 1) * this.tile - 1)];
        const [fromY, toY] = [Math.max(y0, row * this.tile), Math.min(y1, (row + 1) * this.tile - 1)];
        for (let y = fromY; y <= toY; y += 1) {
          const line = (y - row * this.tile) * this.tile - column * this.tile;
          for (let x = fromX; x <= toX; x += 1) {
            if (values[line + x] !== value && covers(x, y)) {
              this.#keep(key, values);
              values[line + x] = value;
            }
          }
        }
        if (this.stroke.has(key)) this.#note(key);
      }
    }
    this.onPaint();
  }

  /** Called while a stroke is painted. */
  onPaint = () => {};

  /** @param {string} key @param {Uint8Array} values */
  #keep(key, values) {
    if (!this.stroke.has(key)) this.stroke.set(key, values.slice());
  }

  /** @param {string} key */
  #note(key) {
    this.changes.set(key, (this.counted += 1));
    this.unkept.add(key);
  }

  /** A tile at full size, fetched where it is not here. @param {number} column @param {number} row @returns {Promise<Uint8Array>} */
  async #load(column, row) {
    const key = `${column}/${row}`;
    const found = this.tiles.get(key);
    if (found) return found;
    const values = new Uint8Array(this.tile * this.tile);
    if (this.base) {
      const stored = await this.base.load(0, column, row);
      for (let y = 0; y < stored.height; y += 1) {
        for (let x = 0; x < stored.width; x += 1) values[y * this.tile + x] = stored.values[y * stored.width + x] >= 128 ? 1 : 0;
      }
    }
    this.tiles.set(key, values);
    return values;
  }
}
