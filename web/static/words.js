// What codes are called in the lab.

/** @type {Record<string, string>} */
const WORDS = {
  QUEUED: "waiting",
  RUNNING: "at work",
  SUCCEEDED: "done",
  REJECTED: "refused",
  FAILED: "failed",
  AWAITING_GROUND_TRUTH: "no ground truth yet",
  SCORED: "scored",
  EMPTY: "no cells",
  OUT_OF_FOCUS: "out of focus",
  SATURATED: "overexposed",
  LOW_CONTRAST: "low contrast",
  UNEVEN_LIGHT: "uneven light",
  UNUSUAL: "unlike the training images",
  UNCERTAIN: "uncertain",
  SQUASHED: "squashed too far",
};

/** @type {Record<string, string>} */
export const ADVICE = {
  EMPTY: "Nothing but noise: the well is empty, or the image was not exposed.",
  OUT_OF_FOCUS: "Scan again in focus; the mask misses thin edges.",
  SATURATED: "Too many pixels are at the camera's limit; expose shorter.",
  LOW_CONTRAST: "The cells hardly differ from their ground.",
  UNEVEN_LIGHT: "The lamp or the meniscus shades the page; look at its dark side.",
  UNUSUAL: "The network was trained on other images; look before you believe it.",
  UNCERTAIN: "Much of the page is between cell and ground; look at the threshold.",
  SQUASHED: "The page was reduced so far that cells vanish; send it in mode `native`.",
};

/**
 * A code in words.
 * @param {string} code
 */
export function wordsOf(code) {
  return WORDS[code] ?? code.toLowerCase().replaceAll("_", " ");
}
