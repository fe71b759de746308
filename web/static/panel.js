// The facts about a job and a page, beside the image.

import { get, isLeft, pause, post } from "./api.js";
import { dollars, el, fixed, hoursOf, sentenceOf } from "./dom.js";
import { go } from "./router.js";
import { ADVICE, wordsOf } from "./words.js";

export class Panel {
  /** @param {string} id @param {AbortSignal} signal */
  constructor(id, signal) {
    this.id = id;
    this.signal = signal;
    this.measured = el("section", { "aria-label": "Confluence" });
    this.threshold = el("p", { class: "note", role: "status" });
    this.threshold.hidden = true;
    this.scores = el("section", { "aria-label": "Score", "aria-live": "polite" });
    this.made = el("section", { "aria-label": "How it was made" });
    this.about = el("section", { "aria-label": "About" });
    this.element = el("aside", { class: "panel", "aria-label": "About this image", tabindex: 0 }, this.measured, this.threshold, this.scores, this.about, this.made, this.#log());
  }

  /** @param {any} job as GET /jobs/{id} answers it */
  showJob(job) {
    this.showScores(job.evaluations ?? []);
    const facts = factsOf([
      ["Status", `${wordsOf(job.status)}${job.attempt > 1 ? `, attempt ${job.attempt}` : ""}`],
      ["Group", job.group], ["Plate", job.plate], ["Well", job.well], ["Site", job.site], ["Time", typeof job.time === "number" ? hoursOf(job.time) : momentOf(job.time)],
      ["Uploaded as", job.image], ["Asked for", momentOf(job.created_at)], ["Finished", momentOf(job.updated_at)],
      ["Estimated cost", job.estimated_cost_usd === undefined ? undefined : dollars(job.estimated_cost_usd)], ["Job", job.job_id],
    ]);
    this.about.replaceChildren(el("h2", {}, "About"), facts);
  }

  /** Show the status of a job without a result. @param {any} job */
  showStatus(job) {
    this.measured.replaceChildren(el("h2", {}, "Status"), el("p", { class: "big" }, wordsOf(job.status)));
    const told = job.evaluations?.some((/** @type {any} */ each) => each.evaluation_status !== "AWAITING_GROUND_TRUTH");
    if (!told) this.scores.replaceChildren(); // there is no mask to correct
    if (job.status === "FAILED" || job.status === "REJECTED") this.#showError(job);
  }

  /** @param {any} job */
  #showError(job) {
    const [redrive, said] = this.#redrive(() => go(location.pathname));
    this.measured.append(el("div", { class: "note bad" }, el("b", {}, wordsOf(job.error_code ?? "")), el("p", {}, job.error ?? ""),
      job.status === "FAILED" ? redrive : el("p", { class: "quiet" }, "It is not retried: correct the image or the request and send it again."), said));
  }

  /** A button that sends the job and its scores again, and what the server says to that. @param {() => void} sent */
  #redrive(sent) {
    const said = el("p", { role: "status" });
    const button = el("button", { type: "button", class: "main", onclick: async () => {
      button.disabled = true;
      try {
        await post(`jobs/${this.id}/redrive`, {}, this.signal);
        sent();
      } catch (error) {
        button.disabled = false;
        said.textContent = sentenceOf(error);
      }
    } }, "Send again");
    return [button, said];
  }

  /** @param {any} result @param {any} page */
  showResult(result, page) {
    const interval = page.confluence_low !== undefined && page.confluence_high !== undefined
      ? el("p", { class: "quiet" }, `${(page.confluence_low * 100).toFixed(1)} % if only sure pixels count, ${(page.confluence_high * 100).toFixed(1)} % if doubtful ones count too`) : null;
    const flags = (page.quality ?? []).map((/** @type {{name: string, value: number}} */ flag) =>
      el("p", { class: "note warn" }, el("b", {}, wordsOf(flag.name)), ` (${fixed(flag.value, 2)}). ${ADVICE[flag.name] ?? ""}`));
    const of = result.pages.length > 1 ? ` of page ${page.page}` : "";
    this.measured.replaceChildren(el("h2", {}, `Confluence${of}`), el("p", { class: "big" }, `${(page.confluence * 100).toFixed(1)} %`), interval ?? "", ...flags);
    if (result.pages.length > 1) this.measured.append(el("p", { class: "quiet" }, `All ${result.pages.length} pages: ${(result.confluence * 100).toFixed(1)} %`));
    const { model, parameters, timings_ms: timings } = result;
    this.cleaning = cleaningOf(parameters);
    const made = factsOf([
      ["Model", model.name], ["Mode", parameters.mode], ["Threshold", fixed(parameters.threshold)], ["Channel", parameters.channel ?? undefined],
      ["Cell area", page.cell_area_mm2 === undefined ? undefined : `${fixed(page.cell_area_mm2, 4)} mm²`],
      ["Cleaned", this.cleaning], ["Page", `${page.width} x ${page.height} pixels, ${page.dtype}`], ["Note", page.note], ["Normalisation", result.normalisation],
      ["Image version", result.image.version_id ?? result.image.etag], ["Weights", model.sha256], ["Licence", model.training_data_licence],
      ["Time", timings ? `${Math.round(timings.total)} ms${result.cold_start ? ", with a cold start" : ""}` : undefined],
      ["Estimated cost", dollars(result.estimated_cost_usd)], ["Mask", page.mask],
    ]);
    this.made.replaceChildren(el("details", { class: "made" }, el("summary", {}, "How it was made"), made));
  }

  /** @param {number | null} share null takes the note away @param {number} threshold */
  showThreshold(share, threshold) {
    this.threshold.hidden = share === null;
    if (share === null) return;
    const cleaning = this.cleaning ? `, with ${this.cleaning}` : "";
    this.threshold.textContent = `At ${threshold.toFixed(3)} the confluence would be ${(share * 100).toFixed(1)}\u00a0%${cleaning}. The stored mask stays as it is.`;
  }

  /** @param {any} truth */
  showTruth(truth) {
    this.truth = truth;
    this.showScores(this.evaluations ?? []);
  }

  /** @param {any[]} evaluations */
  showScores(evaluations) {
    this.evaluations = evaluations;
    const scored = evaluations.filter((each) => each.evaluation_status === "SCORED").sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
    const pending = evaluations.filter((each) => each.evaluation_status === "QUEUED");
    const bad = evaluations.filter((each) => each.evaluation_status === "REJECTED" || each.evaluation_status === "FAILED");
    /** @type {(Node | string)[]} */
    const shown = [el("h2", {}, "Against the ground truth")];
    if (scored.length) {
      const [newest] = scored;
      shown.push(el("p", { class: "big", id: "iou", "data-record": newest.record }, `IoU ${fixed(newest.iou)}`), factsOf([
        ["Dice", fixed(newest.dice)], ["Precision", fixed(newest.precision)], ["Recall", fixed(newest.recall)], ["Boundary F1", fixed(newest.boundary_f1)],
        ["True confluence", newest.true_confluence === undefined ? undefined : `${(newest.true_confluence * 100).toFixed(1)} %`], ["Ground truth", newest.ground_truth],
      ]));
    } else if (!pending.length) {
      shown.push(el("p", { class: "quiet" }, this.truth ? "Not scored yet." : "There is none yet. Correct the mask and save it: it becomes the ground truth."));
    }
    if (pending.length) shown.push(el("p", { class: "quiet" }, "The score is being computed …"));
    for (const each of bad) shown.push(el("p", { class: "note bad" }, `${wordsOf(each.evaluation_status)}: ${each.error ?? ""}`));
    const failed = bad.find((each) => each.evaluation_status === "FAILED");
    if (failed) shown.push(...this.#redrive(() => void this.awaitScore(failed.record.replace(/^EVAL#/, ""))));
    this.scores.replaceChildren(...shown);
  }

  /**
   * Poll until the ground truth of this version is scored, refused or failed.
   * @param {string} version
   */
  async awaitScore(version) {
    const record = `EVAL#${version}`;
    try {
      for (let look = 0; look < 300; look += 1) {
        const job = await get(`jobs/${this.id}`, this.signal).catch((error) => {
          if (isLeft(error)) throw error;
          return null;
        });
        if (job) this.showScores(job.evaluations ?? []);
        const mine = job?.evaluations?.find((/** @type {any} */ each) => each.record === record);
        if (mine && mine.evaluation_status !== "QUEUED") return;
        await pause(look < 20 ? 500 : 2000, this.signal);
      }
    } catch (error) {
      if (!isLeft(error)) throw error;
    }
  }

  #log() {
    const list = el("ul", { class: "log" });
    const details = el("details", {}, el("summary", {}, "Log"), list);
    details.addEventListener("toggle", async () => {
      if (!details.open) return;
      list.replaceChildren(el("li", {}, "reading …"));
      try {
        const { lines } = await get(`jobs/${this.id}/log`, this.signal);
        list.replaceChildren(...lines.map((/** @type {any} */ line) =>
          el("li", { class: line.level === "ERROR" || line.level === "WARNING" ? "bad" : "" }, `${new Date(line.at).toISOString()} ${line.function} ${line.level} ${line.text}`)));
        if (!lines.length) list.replaceChildren(el("li", {}, "No line of the last seven days names this job."));
      } catch (error) {
        if (!isLeft(error)) list.replaceChildren(el("li", { class: "bad" }, sentenceOf(error)));
      }
    });
    return details;
  }
}

/** @param {string | undefined} time in ISO 8601, UTC */
function momentOf(time) {
  return time && `${time.slice(0, 19).replace("T", " ")} UTC`;
}

/** @param {[string, unknown][]} facts those that are undefined are left out */
function factsOf(facts) {
  return el("dl", { class: "facts" }, facts.filter(([, value]) => value !== undefined && value !== null && value !== "")
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

/** What the request asked for beyond the network's mask. @param {any} parameters of a result */
function cleaningOf(parameters) {
  return [
    parameters.fill_holes ? "holes filled" : "",
    parameters.min_size_px ? `regions under ${parameters.min_size_px} pixels left out` : "",
    parameters.min_size_um2 ? `regions under ${parameters.min_size_um2} µm² left out` : "",
  ].filter(Boolean).join(" and ");
}
