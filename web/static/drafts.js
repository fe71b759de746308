// Keeps unsaved painting in the browser, so that it survives a reload and a lost connection.
// Each tile is a record of its own, so that a stroke on a large page writes only the tiles that it touched.

import { packed, unpacked } from "./bits.js";

/**
 * @typedef {object} Begun
 * @property {string} base mask, truth or empty
 * @property {string} seen ETag of the ground truth that was there when painting began
 * @property {number} at milliseconds since 1970
 */
/** @typedef {[number, number, Uint8Array]} Tile column, row, and 0 or 1 for each pixel */

const [PAGES, TILES] = ["pages", "tiles"];

/** @returns {Promise<IDBDatabase>} */
function open() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open("cytomask", 2);
    asked.onupgradeneeded = () => {
      for (const old of [...asked.result.objectStoreNames]) asked.result.deleteObjectStore(old);
      for (const name of [PAGES, TILES]) asked.result.createObjectStore(name);
    };
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

/**
 * @template Value
 * @param {IDBTransactionMode} mode
 * @param {(pages: IDBObjectStore, tiles: IDBObjectStore) => () => Value} act asks, and returns what reads the answer
 * @returns {Promise<Value>}
 */
async function within(mode, act) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction([PAGES, TILES], mode);
      const read = act(transaction.objectStore(PAGES), transaction.objectStore(TILES));
      transaction.oncomplete = () => resolve(read());
      transaction.onerror = () => reject(transaction.error);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

/** Every tile of a page. @param {string} key */
function tilesOf(key) {
  return IDBKeyRange.bound([key], [key, []]); // an array sorts behind every number
}

/**
 * Claim a page's draft for this tab: two tabs that write one draft would lose what one of them painted.
 * @param {string} key of the page
 * @returns {Promise<(() => void) | null>} gives the draft back, as closing the tab does; null if another tab has it
 */
export function claimDraft(key) {
  return new Promise((resolve) => {
    void navigator.locks.request(`draft ${key}`, { ifAvailable: true }, (lock) => {
      if (!lock) return resolve(null);
      return new Promise((giveBack) => resolve(() => giveBack(undefined)));
    });
  });
}

/** @param {string} key of the page @returns {Promise<(Begun & {tiles: Tile[]}) | undefined>} */
export function readDraft(key) {
  return within("readonly", (pages, tiles) => {
    const [begun, places, bits] = [pages.get(key), tiles.getAllKeys(tilesOf(key)), tiles.getAll(tilesOf(key))];
    return () => begun.result && {
      ...begun.result,
      tiles: places.result.map((place, at) => {
        const [, column, row] = /** @type {[string, number, number]} */ (place);
        return [column, row, unpacked(bits.result[at])];
      }),
    };
  });
}

/**
 * Keep what a stroke changed.
 * @param {string} key of the page
 * @param {Begun} begun
 * @param {Tile[]} tiles
 */
export async function keepDraft(key, begun, tiles) {
  await within("readwrite", (pages, kept) => {
    pages.put(begun, key);
    for (const [column, row, values] of tiles) kept.put(packed(values), [key, column, row]);
    return () => {};
  });
}

/** @param {string} key of the page */
export async function dropDraft(key) {
  await within("readwrite", (pages, tiles) => {
    pages.delete(key);
    tiles.delete(tilesOf(key));
    return () => {};
  });
}
