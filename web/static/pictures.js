// Keeps the pictures that were drawn last, by name.

const FEWEST = 96; // at most a megabyte each

export class Pictures {
  /** @type {Map<string, OffscreenCanvas>} */
  #kept = new Map();
  #most = FEWEST;

  /** Keep enough for three views of so many tiles: a large screen shows many at once. @param {number} tiles */
  makeRoom(tiles) {
    this.#most = Math.max(FEWEST, 3 * tiles);
  }

  /** @param {string} name */
  find(name) {
    return this.#kept.get(name);
  }

  /** Find a picture, or draw it. @param {string} name @param {() => OffscreenCanvas} draw */
  get(name, draw) {
    const found = this.#kept.get(name) ?? draw();
    this.#kept.delete(name);
    this.#kept.set(name, found); // the one used last goes last
    for (const old of this.#kept.keys()) {
      if (this.#kept.size <= this.#most) break;
      this.#kept.delete(old);
    }
    return found;
  }

  forget() {
    this.#kept.clear();
  }
}
