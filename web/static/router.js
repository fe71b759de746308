// Every view has an address. A click on a link changes the view without loading the page anew.

import { byId, el, sentenceOf } from "./dom.js";
import { isLeft } from "./api.js";

/**
 * @typedef {object} Place
 * @property {HTMLElement} main where the view is built
 * @property {string[]} parts what the address names, decoded
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal aborted when the view is left
 */
/** @typedef {(place: Place) => void | Promise<void>} View */

const RESTS_AFTER = 150; // milliseconds

/** @type {{pattern: RegExp, title: string, load: () => Promise<View>}[]} */
const routes = [];
/** @type {AbortController | null} */
let shown = null;

/**
 * @param {RegExp} pattern of a path; its groups become `parts`
 * @param {string} title
 * @param {() => Promise<View>} load
 */
export function route(pattern, title, load) {
  routes.push({ pattern, title, load });
}

/**
 * Go to an address of the page.
 * @param {string} address
 */
export function go(address) {
  history.pushState(null, "", address);
  void show();
}

/**
 * Change the query of the address without leaving the view.
 * @param {Record<string, string>} values empty ones are left out
 */
export function note(values) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== ""));
  history.replaceState(history.state, "", location.pathname + (query.size ? `?${query}` : ""));
}

/**
 * Name what a view shows, for the browser's tabs and history.
 * @param {string} name
 */
export function entitle(name) {
  document.title = `${name} – cytomask`;
}

/**
 * Keep with the address how far an element is scrolled, so that Back leads to the same place.
 * @param {HTMLElement} frame
 * @param {AbortSignal} signal of the view
 * @returns {() => void} scrolls to the kept place, once there is something to scroll
 */
export function keepScroll(frame, signal) {
  const top = Number(history.state?.top ?? 0);
  let resting = 0;
  frame.addEventListener("scroll", () => {
    clearTimeout(resting);
    resting = window.setTimeout(() => history.replaceState({ top: frame.scrollTop }, ""), RESTS_AFTER);
  }, { signal, passive: true });
  signal.addEventListener("abort", () => clearTimeout(resting));
  return () => {
    frame.scrollTop = top;
  };
}

/** Show the view of the address as it is now. */
export async function show() {
  shown?.abort();
  const mine = (shown = new AbortController());
  const main = byId("view");
  const focused = main.contains(document.activeElement); // the old view may drop what has the focus while the new one loads
  for (const dialog of document.querySelectorAll("dialog")) dialog.close(); // it asks about the view that is left
  for (const link of document.querySelectorAll("nav a")) {
    const here = location.pathname.startsWith(link.getAttribute("href") ?? "-");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const { pattern, title, load } of routes) {
    const found = pattern.exec(location.pathname);
    if (!found) continue;
    entitle(title);
    try {
      const view = await load();
      if (mine.signal.aborted) return;
      main.replaceChildren();
      main.className = "";
      if (focused && (main.contains(document.activeElement) || document.activeElement === document.body)) lead(main);
      const scrollBack = keepScroll(main, mine.signal);
      const parts = found.slice(1).map(decoded);
      await view({ main, parts, query: new URLSearchParams(location.search), signal: mine.signal });
      if (!mine.signal.aborted) scrollBack();
    } catch (error) {
      if (!isLeft(error) && !mine.signal.aborted) main.replaceChildren(trouble(error));
    }
    return;
  }
  main.replaceChildren(el("p", { class: "note" }, "There is nothing at this address."));
}

/** Give the focus to the new view, for or else the next Tab begins at the top of the page. @param {HTMLElement} main */
function lead(main) {
  main.toggleAttribute("data-led", true); // nobody went there by a key, so no ring is drawn
  main.addEventListener("blur", () => main.removeAttribute("data-led"), { once: true });
  main.focus({ preventScroll: true });
}

/** @param {string | undefined} part of an address, which may be typed by hand */
function decoded(part = "") {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a % that is no code stands for itself
  }
}

/**
 * A box that says what went wrong.
 * @param {unknown} error
 */
export function trouble(error) {
  return el("p", { class: "note bad", role: "alert" }, sentenceOf(error));
}

addEventListener("popstate", () => void show());
addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a") : null;
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || link.origin !== location.origin || link.target || link.hasAttribute("download")) return;
  if (link.pathname.startsWith("/api/") || link.getAttribute("href")?.startsWith("#")) return;
  event.preventDefault();
  go(link.pathname + link.search);
});
