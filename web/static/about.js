// What the server told about the stack when the session was opened.

/**
 * @typedef {object} About
 * @property {string} stack
 * @property {string} region
 * @property {Record<string, string>} buckets bucket by purpose: images, masks, ground truths
 * @property {Record<string, number>} thresholds the models' own, by mode
 * @property {number} largest_file in bytes
 */

/** @type {About} */
export const about = { stack: "", region: "", buckets: {}, thresholds: {}, largest_file: 0 };
