// Turns tiles of values into pictures.

/** @typedef {import("./layers.js").Tile} Tile */

// As cytomask.images draws overlays, and three colours of Okabe and Ito that every eye tells apart.
const MASK = [230, 159, 0];
const BOTH = [0, 158, 115];
const EXTRA = [213, 94, 0];
const MISSED = [86, 180, 233];
const LITTLE = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** @param {number[]} colour @param {number} alpha */
function packed([red, green, blue], alpha) {
  return (LITTLE ? (alpha << 24) | (blue << 16) | (green << 8) | red : (red << 24) | (green << 16) | (blue << 8) | alpha) >>> 0;
}

/**
 * A grey picture of a tile, from black at the window's start to white at its end.
 * @param {Tile} tile
 * @param {[number, number]} window in stored values
 */
export function drawShades(tile, [low, high]) {
  const picture = new OffscreenCanvas(tile.width, tile.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (picture.getContext("2d"));
  const image = context.createImageData(tile.width, tile.height);
  const pixels = new Uint32Array(image.data.buffer);
  const shades = shadesOf(tile.values instanceof Uint8Array ? 256 : 65536, low, high);
  for (let place = 0; place < pixels.length; place += 1) pixels[place] = shades[tile.values[place]];
  context.putImageData(image, 0, 0);
  return picture;
}

/** The grey of every value, made last. @type {{key: string, shades: Uint32Array}} */
let last = { key: "", shades: new Uint32Array(0) };

/** @param {number} count of values @param {number} low @param {number} high */
function shadesOf(count, low, high) {
  const key = `${count} ${low} ${high}`;
  if (last.key === key) return last.shades;
  const shades = new Uint32Array(count);
  const gain = 255 / Math.max(1e-9, high - low);
  for (let value = 0; value < count; value += 1) {
    const shade = Math.max(0, Math.min(255, Math.round((value - low) * gain)));
    shades[value] = packed([shade, shade, shade], 255);
  }
  last = { key, shades };
  return shades;
}

/**
 * @typedef {object} Cells cells of a tile, 1 or 0, row by row
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array} values
 */

/**
 * Cells where a tile's values reach a limit.
 * @param {Tile} tile
 * @param {number} limit
 * @returns {Cells}
 */
export function cellsOf(tile, limit) {
  const values = new Uint8Array(tile.values.length);
  for (let place = 0; place < values.length; place += 1) values[place] = tile.values[place] >= limit ? 1 : 0;
  return { width: tile.width, height: tile.height, values };
}

/**
 * A mask over a transparent ground.
 * @param {Cells} cells
 * @param {"outline" | "filled"} style
 * @param {boolean} truth whether it is the ground truth's colour
 */
export function drawMask(cells, style, truth) {
  const colour = truth ? MISSED : MASK;
  const [line, inside] = [packed(colour, 255), packed(colour, style === "filled" ? 110 : 14)];
  const { values, width, height } = cells;
  return painted(cells, (place, column, row) => {
    if (!values[place]) return 0;
    const edge =
      (column > 0 && !values[place - 1]) ||
      (column < width - 1 && !values[place + 1]) ||
      (row > 0 && !values[place - width]) ||
      (row < height - 1 && !values[place + width]);
    return edge ? line : inside;
  });
}

/**
 * Where mask and ground truth agree, what the mask has too much, and what it missed.
 * @param {Cells} cells
 * @param {Cells} truth of the same size
 */
export function drawDisagreement(cells, truth) {
  const both = packed(BOTH, 90);
  const extra = packed(EXTRA, 190);
  const missed = packed(MISSED, 190);
  return painted(cells, (place) => (cells.values[place] ? (truth.values[place] ? both : extra) : truth.values[place] ? missed : 0));
}

/**
 * @param {Cells} cells
 * @param {(place: number, column: number, row: number) => number} colourAt
 */
function painted(cells, colourAt) {
  const picture = new OffscreenCanvas(cells.width, cells.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (picture.getContext("2d"));
  const image = context.createImageData(cells.width, cells.height);
  const pixels = new Uint32Array(image.data.buffer);
  let place = 0;
  for (let row = 0; row < cells.height; row += 1) {
    for (let column = 0; column < cells.width; column += 1, place += 1) pixels[place] = colourAt(place, column, row);
  }
  context.putImageData(image, 0, 0);
  return picture;
}
