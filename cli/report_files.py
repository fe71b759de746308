"""The work of `cytomask report`: print its tables and write its files."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cytomask.cli.console import complain, say
from cytomask.cli.files import count_of, write_whole
from cytomask.cli.model_names import name_models
from cytomask.cli.rows import Search, arrived
from cytomask.cli.stack import Stack
from cytomask.cli.summary import (
    EVALUATION,
    MEASURES,
    NO_GROUP,
    OF_MASKS,
    OF_SCORES,
    Job,
    Line,
    compare,
    period_of,
    text_of,
    warn_of_different_images,
)
from cytomask.cli.tables import print_table, write_csv
from cytomask.records import EvaluationRow
from cytomask.storage import Storage

OF_THE_JOB = (
    "job_id",
    "image",
    "group",
    "status",
    "model_sha256",
    "created_at",
    "pages",
    "confluence",
    "confluence_low",
    "confluence_high",
    "cell_area_mm2",
    "quality",
    "milliseconds",
    "estimated_cost_usd",
    "mask",
    "error_code",
    "error",
)
OF_THE_EVALUATION = (
    "evaluation_status",
    "ground_truth",
    "iou",
    "dice",
    "precision",
    "recall",
    "boundary_f1",
    "boundary_tolerance",
    "true_confluence",
    "true_positive",
    "false_positive",
    "false_negative",
)
COLUMNS = (
    *OF_THE_JOB[:5],
    "model",
    *OF_THE_JOB[5:],
    *OF_THE_EVALUATION,
    "ground_truth_version",
    "evaluation_updated_at",
    "counts",
    "evaluation_error_code",
    "evaluation_error",
)


def read_jobs(stack: Stack, search: Search) -> list[Job]:
    """Read the requested jobs, the newest first, with their evaluations against existing ground truths."""
    rows = list({row.job_id: row for row in stack.rows.jobs(search)}.values())
    masks = [row for row in rows if row.status == "SUCCEEDED"]  # only these have masks to evaluate
    found = zip(masks, stack.rows.evaluations(masks), strict=True)
    evaluations = {row.job_id: arrived(own) for row, own in found}
    return [Job(row, evaluations.get(row.job_id, [])) for row in rows]


def print_report(stack: Stack, jobs: Sequence[Job]) -> None:
    """Print masks, scores and failures, with a row for each group and model."""
    names = name_models(Storage(stack.s3), jobs)
    made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    say(f"stack {stack.name}: {count_of(len(jobs), 'job')} of {period_of(jobs)}; made {made_at}")
    lines = compare(jobs)
    _print_lines(lines, names, OF_MASKS)
    scored = [line for line in lines if line.summary.scored]
    if scored:
        _print_lines(scored, names, OF_SCORES)
    flags = Counter((job.group or NO_GROUP, names[job.model], flag) for job in jobs for flag in job.flags)
    if flags:
        say()
        rows = [(*place, str(count)) for place, count in sorted(flags.items())]
        print_table(("group", "model", "flag", "count"), rows, ["count"])
    failures = [
        (line.group, names[line.model], str(count), kind)
        for line in lines
        for kind, count in sorted(line.summary.failures.items())
    ]
    if failures:
        say()
        print_table(("group", "model", "count", "failure"), failures, ["count"])
    warning = warn_of_different_images(jobs)
    if warning:
        complain(warning)


def _print_lines(lines: Iterable[Line], names: dict[str, str], measures: Sequence[str]) -> None:
    say()
    print_table(
        ("group", "model", *measures),
        [
            (line.group, names[line.model], *(text_of(MEASURES[name](line.summary)) for name in measures))
            for line in lines
        ],
        measures,
    )


def write_files(stack: Stack, jobs: Sequence[Job], csv: Path | None, html: Path | None) -> dict[Path, str]:
    """Write the requested files; return each with the reason if it failed, or an empty text."""
    storage = Storage(stack.s3)
    names = name_models(storage, jobs)
    makers: dict[Path, Callable[[], None]] = {}
    if csv:
        flagged_first = sorted(jobs, key=lambda job: not job.flags)
        rows = [row for job in flagged_first for row in _rows_of(job, names[job.model])]
        makers[csv] = lambda: write_csv(csv, COLUMNS, rows)
    if html:
        from cytomask.cli.report_page import render_page  # needs the extra `local`

        page = render_page(storage, f"Masks of the stack {stack.name}", jobs, names)
        makers[html] = lambda: write_whole(html, page)
    return {path: _fault_of(make) for path, make in makers.items()}


def _fault_of(make: Callable[[], None]) -> str:
    try:
        make()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _rows_of(job: Job, model: str) -> Iterable[dict[str, Any]]:
    """Yield a row for each evaluation; `counts` is 1 for the one that the measures use."""
    own = {name: getattr(job.row, name) for name in OF_THE_JOB}
    own |= {"model": model, "quality": job.doubts or None}
    score = job.score
    for evaluation in job.evaluations:
        yield own | _columns_of(evaluation, counts=evaluation is score)
    if not job.evaluations:
        yield own


def _columns_of(evaluation: EvaluationRow, *, counts: bool) -> dict[str, Any]:
    return {name: getattr(evaluation, name) for name in OF_THE_EVALUATION} | {
        "ground_truth_version": evaluation.record.removeprefix(EVALUATION),
        "evaluation_updated_at": evaluation.updated_at,
        "counts": int(counts),
        "evaluation_error_code": evaluation.error_code,
        "evaluation_error": evaluation.error,
    }
