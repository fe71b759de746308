// Puts a file into the input bucket by presigned addresses, or through the server where the bucket says no.

import { call, post } from "./api.js";

const TRIES = 3;
/** Whether the bucket lets this page in; found out by the first file. */
let direct = true;

/**
 * @param {File} file
 * @param {string} key
 * @param {boolean} replace an image that is there
 * @param {(share: number) => void} progress from 0 to 1
 * @returns {Promise<boolean>} whether the file is a plate map, not an image
 */
export async function upload(file, key, replace, progress) {
  const place = await post("uploads", { key, size: file.size, replace });
  if (place.urls) {
    await inParts(file, key, replace, place, progress);
    return false;
  }
  if (direct) {
    try {
      await put(place.url, file, progress);
      return place.plate_map;
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      direct = false;
    }
  }
  await through(file, key, replace);
  progress(1);
  return place.plate_map;
}

/** Send a file through the server. @param {File} file @param {string} key @param {boolean} replace an image that is there */
async function through(file, key, replace) {
  const query = new URLSearchParams({ key, replace: replace ? "yes" : "no" });
  await call(`uploads/through?${query}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
}

/**
 * @param {File} file
 * @param {string} key
 * @param {boolean} replace an image that is there
 * @param {{upload_id: string, part_bytes: number, urls: string[]}} place
 * @param {(share: number) => void} progress
 */
async function inParts(file, key, replace, place, progress) {
  const etags = [];
  try {
    for (const [number, url] of place.urls.entries()) {
      const start = number * place.part_bytes;
      const part = file.slice(start, start + place.part_bytes);
      etags.push(await put(url, part, (share) => progress((start + share * part.size) / file.size)));
    }
  } catch (error) {
    await post("uploads/abort", { key, upload_id: place.upload_id }).catch(() => {});
    if (!(error instanceof Unreachable) || etags.length) throw error;
    await through(file, key, replace);
    return;
  }
  await post("uploads/complete", { key, upload_id: place.upload_id, etags });
}

/** The bucket does not answer, or does not let this page in. */
class Unreachable extends Error {}

/** The browser reads the file no more: it was changed, moved or deleted since it was chosen. */
export class Unreadable extends Error {}

/** Tell a file that cannot be read from a bucket that does not answer: both break a request. @param {Blob} body */
async function requireReadable(body) {
  try {
    await body.slice(0, 1).arrayBuffer();
  } catch {
    throw new Unreadable("the file was changed, moved or deleted since it was chosen; choose it again");
  }
}

/**
 * Put bytes to an address; returns their ETag. Tries again where the connection breaks.
 * @param {string} url
 * @param {Blob} body
 * @param {(share: number) => void} progress
 * @returns {Promise<string>}
 */
async function put(url, body, progress) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await putOnce(url, body, progress);
    } catch (error) {
      if (error instanceof Unreachable) await requireReadable(body);
      if (!(error instanceof Unreachable) || attempt === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 300 * 2 ** attempt));
    }
  }
}

/**
 * XMLHttpRequest tells how much was sent, which fetch does not.
 * @param {string} url
 * @param {Blob} body
 * @param {(share: number) => void} progress
 * @returns {Promise<string>}
 */
function putOnce(url, body, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url);
    request.upload.addEventListener("progress", (event) => progress(event.loaded / Math.max(1, event.total)));
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) resolve(request.getResponseHeader("etag") ?? "");
      else reject(new Error(`the bucket answered ${request.status}; nothing was stored`));
    });
    request.addEventListener("error", () => reject(new Unreachable("the bucket does not answer")));
    request.send(body);
  });
}
