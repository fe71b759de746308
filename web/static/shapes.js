// What the brush and the lasso cover: a box, and whether a pixel in it belongs to the shape.

/**
 * @typedef {object} Shape in pixels of the page
 * @property {number} left
 * @property {number} top
 * @property {number} right
 * @property {number} bottom
 * @property {(x: number, y: number) => boolean} covers whether the middle of a pixel lies in the shape
 */
/** @typedef {[number, number]} Point */

/**
 * A round brush drawn along a line.
 * @param {Point} from
 * @param {Point} to
 * @param {number} radius
 * @returns {Shape}
 */
export function stroke(from, to, radius) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = dx * dx + dy * dy;
  return {
    left: Math.min(from[0], to[0]) - radius,
    top: Math.min(from[1], to[1]) - radius,
    right: Math.max(from[0], to[0]) + radius,
    bottom: Math.max(from[1], to[1]) + radius,
    covers: (x, y) => {
      const share = length ? Math.max(0, Math.min(1, ((x + 0.5 - from[0]) * dx + (y + 0.5 - from[1]) * dy) / length)) : 0;
      const [ox, oy] = [x + 0.5 - from[0] - share * dx, y + 0.5 - from[1] - share * dy];
      return ox * ox + oy * oy <= radius * radius;
    },
  };
}

/**
 * Everything that a closed line encloses.
 * @param {Point[]} corners at least three
 * @returns {Shape}
 */
export function polygon(corners) {
  const [xs, ys] = [corners.map(([x]) => x), corners.map(([, y]) => y)];
  /** @type {Map<number, number[]>} */
  const crossings = new Map();
  return {
    left: Math.min(...xs),
    top: Math.min(...ys),
    right: Math.max(...xs),
    bottom: Math.max(...ys),
    covers: (x, y) => {
      let sides = crossings.get(y);
      if (!sides) crossings.set(y, (sides = crossingsOf(corners, y + 0.5)));
      let inside = false;
      for (const side of sides) if (side <= x + 0.5) inside = !inside;
      return inside;
    },
  };
}

/**
 * Where a polygon's sides cross a row, in pixels.
 * @param {Point[]} corners
 * @param {number} y
 */
function crossingsOf(corners, y) {
  const found = [];
  for (let place = 0; place < corners.length; place += 1) {
    const [ax, ay] = corners[place];
    const [bx, by] = corners[(place + 1) % corners.length];
    if (ay <= y !== by <= y) found.push(ax + ((y - ay) / (by - ay)) * (bx - ax));
  }
  return found;
}
