// Talks to the page's own server. Every call of the page goes through here.

/** An error that the server answered, with its code and sentence; `status` is 0 if there was no answer. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} detail
   */
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

/** @typedef {"found" | "lost" | "ended"} Connection */

/** Fires `lost` when the server stops answering, `ended` when it knows no session of ours, and `found` when all is well again. */
export const connection = new EventTarget();
/** @type {Connection} */
let standing = "found";
const LOOK_AGAIN = 3000; // milliseconds

/** @param {Connection} now */
function noteConnection(now) {
  const before = standing;
  if (now === before) return;
  standing = now;
  connection.dispatchEvent(new Event(now));
  if (before === "found") void lookAgain();
}

/** Ask until the server answers again: many views ask nothing by themselves. */
async function lookAgain() {
  while (standing !== "found") {
    await pause(LOOK_AGAIN);
    await get("session").catch(() => {});
  }
}

/**
 * Exchange the token behind the address's # for the session's cookie, and take it out of the address.
 * @returns {Promise<void>}
 */
export async function openSession() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(history.state, "", location.pathname + location.search);
  await post("session", { token });
}

/**
 * @param {string} path below /api/
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function call(path, options = {}) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(`/api/${path}`, options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    noteConnection("lost");
    throw new ApiError(0, "NO_ANSWER", "`cytomask web` does not answer; is it still running?");
  }
  noteConnection(response.status === 401 ? "ended" : "found");
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** @param {Response} response */
async function problemOf(response) {
  try {
    const said = await response.json();
    return new ApiError(response.status, String(said.code ?? ""), String(said.detail ?? said.message ?? ""));
  } catch {
    return new ApiError(response.status, "", `the server answered ${response.status}`);
  }
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(path, signal) {
  return (await call(path, { signal })).json();
}

/**
 * @param {string} path
 * @param {unknown} content
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function post(path, content, signal) {
  const headers = { "Content-Type": "application/json" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(content), signal })).json();
}

/**
 * Wait; rejects when the signal says so.
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("left", "AbortError"));
    });
  });
}

/** @param {unknown} error */
export function isLeft(error) {
  return error instanceof DOMException && error.name === "AbortError";
}
