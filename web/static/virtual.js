// A grid of thousands of cards of which only those in sight exist.

/**
 * @template Item
 * @typedef {object} Cards
 * @property {number} width of a card, in CSS pixels, at least
 * @property {number} height of a row
 * @property {() => HTMLElement} make an empty card
 * @property {(card: HTMLElement, item: Item, index: number) => void} fill a card anew
 * @property {(item: Item) => string} keyOf what tells items apart
 * @property {(items: Item[]) => void} [settled] called with what is in sight once scrolling rests
 */

const SPARE_ROWS = 2; // above and below what is in sight
const RESTS_AFTER = 120; // milliseconds

/** @template Item */
export class Grid {
  /**
   * @param {HTMLElement} frame scrolls
   * @param {Cards<Item>} cards
   * @param {AbortSignal} signal
   */
  constructor(frame, cards, signal) {
    this.frame = frame;
    this.cards = cards;
    /** @type {Item[]} */
    this.items = [];
    /** @type {Map<number, {card: HTMLElement, key: string, item: Item}>} */
    this.shown = new Map();
    /** @type {HTMLElement[]} */
    this.spare = [];
    this.focused = 0;
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.setAttribute("role", "list");
    frame.append(this.space);
    this.waiting = 0;
    this.resting = 0;
    frame.addEventListener("scroll", () => this.later(), { signal, passive: true });
    const watcher = new ResizeObserver(() => this.draw());
    watcher.observe(frame);
    signal.addEventListener("abort", () => {
      watcher.disconnect();
      clearTimeout(this.resting);
    });
    frame.addEventListener("keydown", (event) => this.#onKey(event), { signal });
  }

  /** How many cards stand side by side. */
  get columns() {
    return Math.max(1, Math.floor(this.frame.clientWidth / this.cards.width));
  }

  /** @param {Item[]} items */
  set(items) {
    this.items = items;
    this.focused = Math.min(this.focused, Math.max(0, items.length - 1));
    this.draw();
  }

  later() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  draw() {
    const { width, height } = this.cards;
    const columns = this.columns;
    const rows = Math.ceil(this.items.length / columns);
    const wide = Math.max(width, Math.floor(this.frame.clientWidth / columns));
    this.space.style.height = `${rows * height}px`;
    const first = Math.max(0, Math.floor(this.frame.scrollTop / height) - SPARE_ROWS);
    const last = Math.min(rows, Math.ceil((this.frame.scrollTop + this.frame.clientHeight) / height) + SPARE_ROWS);
    const from = first * columns;
    const to = Math.min(this.items.length, last * columns);
    for (const [index, { card }] of this.shown) {
      if (index < from || index >= to) {
        card.remove();
        this.spare.push(card);
        this.shown.delete(index);
      }
    }
    for (let index = from; index < to; index += 1) this.#place(index, columns, wide);
    clearTimeout(this.resting);
    this.resting = window.setTimeout(() => {
      const seen = this.items.slice(from, to);
      for (const { card } of this.shown.values()) card.dispatchEvent(new Event("rest"));
      this.cards.settled?.(seen);
    }, RESTS_AFTER);
  }

  /**
   * @param {number} index
   * @param {number} columns
   * @param {number} wide
   */
  #place(index, columns, wide) {
    const item = this.items[index];
    const key = this.cards.keyOf(item);
    const found = this.shown.get(index);
    const card = found?.card ?? this.spare.pop() ?? this.cards.make();
    card.style.transform = `translate(${(index % columns) * wide}px, ${Math.floor(index / columns) * this.cards.height}px)`;
    card.style.width = `${wide}px`;
    card.setAttribute("aria-setsize", String(this.items.length));
    card.setAttribute("aria-posinset", String(index + 1));
    const link = card.querySelector("a");
    if (link) link.tabIndex = index === this.focused ? 0 : -1;
    if (!found) this.space.append(card);
    if (found?.key !== key || found.item !== item) this.cards.fill(card, item, index);
    this.shown.set(index, { card, key, item });
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const page = Math.max(1, Math.floor(this.frame.clientHeight / this.cards.height)) * this.columns;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page }[event.key];
    const target = event.key === "Home" ? 0 : event.key === "End" ? this.items.length - 1 : step === undefined ? null : this.focused + step;
    if (target === null || !this.items.length) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.items.length - 1, target)));
  }

  /** @param {number} index */
  focus(index) {
    this.focused = index;
    const top = Math.floor(index / this.columns) * this.cards.height;
    const { scrollTop, clientHeight } = this.frame;
    if (top < scrollTop) this.frame.scrollTop = top;
    else if (top + this.cards.height > scrollTop + clientHeight) this.frame.scrollTop = top + this.cards.height - clientHeight;
    this.draw();
    this.shown.get(index)?.card.querySelector("a")?.focus({ preventScroll: true });
  }
}
