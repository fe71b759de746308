// Failed and refused jobs, why, and a button to send them again.

import { post } from "./api.js";
import { el, sentenceOf } from "./dom.js";
import { follow, hurry, jobs, nameOf } from "./jobs.js";
import { wordsOf } from "./words.js";

const MOST_SHOWN = 500;

/** @param {import("./router.js").Place} place */
export async function showFailures({ main, signal }) {
  const counted = el("p", { class: "quiet", role: "status" }, "Reading …");
  const all = el("button", { type: "button" }, "Send all failed ones again");
  const body = el("tbody", {});
  const table = el("table", { class: "failures" }, el("thead", {}, el("tr", {}, ["Image", "Group", "What", "Why", "When", ""].map((name) => el("th", { scope: "col" }, name)))), body);
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
    hurry();
  }

  function draw() {
    const bad = [...jobs.values()].filter((job) => job.status === "FAILED" || job.status === "REJECTED").sort((a, b) => (a.updated < b.updated ? 1 : -1));
    const failed = bad.filter((job) => job.status === "FAILED");
    counted.textContent = bad.length ? `${failed.length} failed, ${bad.length - failed.length} refused${bad.length > MOST_SHOWN ? `; the newest ${MOST_SHOWN} are shown` : ""}.` : "Nothing failed and nothing was refused.";
    all.hidden = !failed.length;
    all.onclick = () => void again(failed.map((job) => job.id));
    table.hidden = !bad.length;
    body.replaceChildren(...bad.slice(0, MOST_SHOWN).map((job) => el("tr", {},
      el("td", {}, el("a", { href: `/images/${job.id}`, title: job.key ?? "" }, nameOf(job))), el("td", {}, job.group ?? ""),
      el("td", {}, `${wordsOf(job.status)}: ${wordsOf(job.error_code ?? "")}`), el("td", {}, job.error ?? ""), el("td", { class: "when" }, job.updated.slice(0, 16).replace("T", " ")),
      el("td", {}, job.status === "FAILED" ? el("button", { type: "button", "aria-label": `Send ${nameOf(job)} again`, onclick: () => void again([job.id]) }, "Send again") : ""))));
  }

  await follow(signal, draw);
}
