// Makes elements. Text is always text: nothing here, or anywhere in the page, turns a string into markup.

/** @typedef {string | number | Node | null | undefined | false} Child */
/** @typedef {Record<string, unknown>} Attributes */

/**
 * Make an HTML element.
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Attributes} [attributes] `onclick` and the like take functions; false and null leave one out
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  fill(made, attributes, children);
  return made;
}

/**
 * Make an SVG element.
 * @template {keyof SVGElementTagNameMap} Name
 * @param {Name} name
 * @param {Attributes} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {SVGElementTagNameMap[Name]}
 */
export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  fill(made, attributes, children);
  return made;
}

/**
 * @param {Element} made
 * @param {Attributes} attributes
 * @param {(Child | Child[])[]} children
 */
function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on") && typeof value === "function") {
      made.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    } else if (name === "value" && made instanceof HTMLInputElement) {
      made.value = String(value);
    } else {
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) {
      made.append(child instanceof Node ? child : String(child));
    }
  }
}

/**
 * Let a screen reader say something.
 * @param {string} text
 */
export function say(text) {
  const said = document.getElementById("said");
  if (said) said.textContent = text;
}

/**
 * Find an element that must be there.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`there is no element ${id}`);
  return found;
}

/**
 * Ask a question in a dialog.
 * @param {string} title
 * @param {string} text
 * @param {string[]} choices the first is the safe one, and what Escape means
 * @returns {Promise<number>} the place of the choice
 */
export function ask(title, text, choices) {
  return new Promise((resolve) => {
    const buttons = choices.map((choice, place) =>
      el("button", { type: "button", class: place ? "main" : "", onclick: () => dialog.close(String(place)) }, choice),
    );
    const dialog = el("dialog", { "aria-labelledby": "asked" }, el("h2", { id: "asked" }, title), el("p", {}, text),
      el("div", { class: "row" }, buttons));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(Number(dialog.returnValue || 0));
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * A short sentence about an error.
 * @param {unknown} error
 * @returns {string}
 */
export function sentenceOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/**
 * A number with so many digits behind the point; a dash where there is none.
 * @param {number | null | undefined} value
 * @param {number} [digits]
 */
export function fixed(value, digits = 3) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

/**
 * Hours in as many digits as a person reads: 20 minutes are 0.33 h.
 * @param {number} value
 */
export function hoursOf(value) {
  return `${Number(value.toFixed(2))} h`;
}

/**
 * A number with the noun that it counts.
 * @param {number} count
 * @param {string} noun whose plural ends in s
 */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/**
 * US$ with as many digits as a small amount needs.
 * @param {number} value
 */
export function dollars(value) {
  if (value === 0) return "$0";
  const digits = value >= 1 ? 2 : Math.min(8, 2 - Math.floor(Math.log10(value)));
  return `$${value.toFixed(digits)}`;
}

/** An image's key, without its bucket. @param {string} image its address */
export function keyOfImage(image) {
  return image.replace(/^s3:\/\/[^/]+\//, "");
}
