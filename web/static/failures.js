// Failed and refused jobs and scores, why, and a button to send them again.

import { post } from "./api.js";
import { el, sentenceOf } from "./dom.js";
import { FEW, fetchScores, follow, forgetScores, hurry, jobs, nameOf, unscored } from "./jobs.js";
import { wordsOf } from "./words.js";

const MOST_SHOWN = 500;

/**
 * A job or the score of one, that failed or was refused.
 * @typedef {object} Fault
 * @property {import("./jobs.js").Job} job
 * @property {boolean} ofScore
 * @property {string} status
 * @property {string} [code]
 * @property {string} [error]
 */

/** @returns {Fault[]} the newest first */
function faults() {
  const all = [...jobs.values()].sort((a, b) => (a.updated < b.updated ? 1 : -1));
  const bad = (/** @type {string | undefined} */ status) => status === "FAILED" || status === "REJECTED";
  return all.flatMap((job) => [
    ...(bad(job.status) ? [{ job, ofScore: false, status: job.status, code: job.error_code, error: job.error }] : []),
    ...(bad(job.score_status) ? [{ job, ofScore: true, status: job.score_status ?? "", code: job.score_code, error: job.score_error }] : []),
  ]);
}

/** @param {import("./router.js").Place} place */
export async function showFailures({ main, signal }) {
  const counted = el("p", { class: "quiet", role: "status" }, "Reading …");
  const all = el("button", { type: "button" }, "Send all failed ones again");
  const body = el("tbody", {});
  const table = el("table", { class: "failures" }, el("thead", {}, el("tr", {}, ["Image", "Group", "What", "Why", "When (UTC)"].map((name) => el("th", { scope: "col" }, name)), el("td", {}))), body);
  all.hidden = table.hidden = true; // until it is known that there are any
  main.append(el("h1", {}, "Failures"), el("div", { class: "row" }, counted, all), table);

  /** @param {string[]} ids */
  async function again(ids) {
    for (const id of ids) {
      try {
        await post(`jobs/${id}/redrive`, {}, signal);
      } catch (error) {
        counted.textContent = sentenceOf(error);
      }
    }
    forgetScores();
    hurry();
    await findRefused();
  }

  /** A refused ground truth is known from its job alone, so the newest jobs are asked. */
  async function findRefused() {
    const newest = [...jobs.values()].sort((a, b) => (a.created < b.created ? 1 : -1)).slice(0, FEW);
    try {
      while (unscored(newest).length) if (await fetchScores(newest, signal)) draw();
    } catch {
      // The connection is lost, or the view was left; the next visit tries again.
    }
  }

  function draw() {
    const bad = faults();
    const failed = bad.filter(({ status }) => status === "FAILED");
    counted.textContent = bad.length ? `${failed.length} failed, ${bad.length - failed.length} refused${bad.length > MOST_SHOWN ? `; the newest ${MOST_SHOWN} are shown` : ""}.` : "Nothing failed and nothing was refused.";
    all.hidden = !failed.length;
    all.onclick = () => void again([...new Set(failed.map(({ job }) => job.id))]);
    table.hidden = !bad.length;
    body.replaceChildren(...bad.slice(0, MOST_SHOWN).map(({ job, ofScore, status, code, error }) => el("tr", {},
      el("td", {}, el("a", { href: `/images/${job.id}`, title: job.key ?? "" }, nameOf(job))), el("td", {}, job.group ?? ""),
      el("td", {}, `${ofScore ? "score " : ""}${wordsOf(status)}: ${wordsOf(code ?? "")}`), el("td", {}, error ?? ""), el("td", { class: "when" }, job.updated.slice(0, 16).replace("T", " ")),
      el("td", {}, status === "FAILED" ? el("button", { type: "button", "aria-label": `Send ${ofScore ? "the score of " : ""}${nameOf(job)} again`, onclick: () => void again([job.id]) }, "Send again") : ""))));
  }

  forgetScores();
  await follow(signal, () => {
    draw();
    void findRefused();
  });
}
