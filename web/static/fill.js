// Fills a connected area within one tile, and tells where it continues in the neighbouring tiles.

/**
 * How far a fill came; the lists hold places of pixels in the tiles beside this one.
 * @typedef {object} Reached
 * @property {boolean} changed
 * @property {number[]} left
 * @property {number[]} right
 * @property {number[]} above
 * @property {number[]} below
 */

/**
 * Give the value to every pixel that is connected to an entry.
 * @param {Uint8Array} values of the tile, row by row; changed in place
 * @param {number} side of the tile: the length of a row in `values`
 * @param {number} width of the part that lies on the page
 * @param {number} height of the part that lies on the page
 * @param {number[]} entries places of pixels
 * @param {0 | 1} value
 * @returns {Reached}
 */
export function fillTile(values, side, width, height, entries, value) {
  const wrap = (side - 1) * side;
  /** @type {Reached} */
  const reached = { changed: false, left: [], right: [], above: [], below: [] };
  const open = [...entries];
  while (open.length) {
    const place = /** @type {number} */ (open.pop());
    if (values[place] === value) continue;
    reached.changed = true;
    const start = place - (place % side);
    const row = start / side;
    let [from, to] = [place, place];
    while (from > start && values[from - 1] !== value) from -= 1;
    while (to < start + width - 1 && values[to + 1] !== value) to += 1;
    values.fill(value, from, to + 1);
    if (from === start) reached.left.push(start + side - 1);
    if (to === start + side - 1) reached.right.push(start);
    if (row > 0) addRuns(values, from - side, to - side, value, open);
    else for (let at = from; at <= to; at += 1) reached.above.push(at + wrap);
    if (row < height - 1) addRuns(values, from + side, to + side, value, open);
    else if (row === side - 1) for (let at = from; at <= to; at += 1) reached.below.push(at - wrap);
  }
  return reached;
}

/** Add one place of each run that lacks the value. @param {Uint8Array} values @param {number} from @param {number} to @param {0 | 1} value @param {number[]} open */
function addRuns(values, from, to, value, open) {
  let within = false;
  for (let at = from; at <= to; at += 1) {
    const lacks = values[at] !== value;
    if (lacks && !within) open.push(at);
    within = lacks;
  }
}
