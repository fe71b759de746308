// Packs masks of 0 and 1 into bits: for the server, and to keep them in the browser.

/**
 * Painted tiles as the server takes them: column and row, 16 bits each, then a bit for each pixel.
 * @param {[number, number, Uint8Array][]} tiles
 * @param {number} side of a tile
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function packTiles(tiles, side) {
  const bytes = (side * side) / 8;
  const all = new Uint8Array(tiles.length * (4 + bytes));
  const view = new DataView(all.buffer);
  let place = 0;
  for (const [column, row, values] of tiles) {
    view.setUint16(place, column, true);
    view.setUint16(place + 2, row, true);
    all.set(packed(values), place + 4);
    place += 4 + bytes;
  }
  return all;
}

/**
 * A bit for each value of 0 or 1, the first of eight being the highest.
 * @param {Uint8Array} values
 */
export function packed(values) {
  const bits = new Uint8Array(values.length / 8);
  for (let place = 0, at = 0; place < bits.length; place += 1) {
    let byte = 0;
    for (let bit = 0; bit < 8; bit += 1, at += 1) byte = (byte << 1) | values[at];
    bits[place] = byte;
  }
  return bits;
}

/**
 * Values of 0 and 1 from their bits.
 * @param {Uint8Array} bits
 */
export function unpacked(bits) {
  const values = new Uint8Array(bits.length * 8);
  for (let at = 0; at < values.length; at += 1) values[at] = (bits[at >> 3] >> (7 - (at & 7))) & 1;
  return values;
}
