// What was painted and not saved yet, kept in the browser: it survives a reload and a lost connection.

/**
 * @typedef {object} Draft
 * @property {string} base mask, truth or empty
 * @property {string} seen ETag of the ground truth that was there when painting began
 * @property {[number, number, Uint8Array][]} tiles
 * @property {number} at milliseconds since 1970
 */

const STORE = "drafts";

/** @returns {Promise<IDBDatabase>} */
function open() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open("cytomask", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

/**
 * @template Value
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<Value>} act
 * @returns {Promise<Value>}
 */
async function within(mode, act) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const asked = act(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onerror = () => reject(transaction.error);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

/** @param {string} key @returns {Promise<Draft | undefined>} */
export function readDraft(key) {
  return within("readonly", (store) => store.get(key));
}

/** @param {string} key @param {Draft} draft */
export async function keepDraft(key, draft) {
  await within("readwrite", (store) => store.put(draft, key));
}

/** @param {string} key */
export async function dropDraft(key) {
  await within("readwrite", (store) => store.delete(key));
}
