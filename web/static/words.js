// Codes in the lab's words.

/** @type {Record<string, string>} */
const WORDS = {
  QUEUED: "waiting",
  RUNNING: "running",
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
  SQUASHED: "reduced too far",
};

/** @type {Record<string, string>} */
export const ADVICE = {
  EMPTY: "The page holds only noise: the well is empty, or the image was not exposed.",
  OUT_OF_FOCUS: "Scan again in focus; the mask misses thin edges.",
  SATURATED: "Too many pixels are at the camera's limit; expose shorter.",
  LOW_CONTRAST: "The cells hardly differ from the background.",
  UNEVEN_LIGHT: "The lamp or the meniscus shades the page; check its dark side.",
  UNUSUAL: "The network was trained on other images; check the mask before you trust it.",
  UNCERTAIN: "Many pixels lie between cell and background; check the threshold.",
  SQUASHED: "The page was reduced so far that cells vanish; send it in mode `native`.",
};

/**
 * A code in words.
 * @param {string} code
 */
export function wordsOf(code) {
  return WORDS[code] ?? code.toLowerCase().replaceAll("_", " ");
}

/**
 * A sentence with its codes in words. Other capitals, such as the name of a compound, stay.
 * @param {string} sentence
 */
export function inWords(sentence) {
  return sentence.replace(/\b[A-Z_]+\b/g, (code) => WORDS[code] ?? code);
}
