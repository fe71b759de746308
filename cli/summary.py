"""The numbers of the report: counts first, then ratios, by group and by model."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cytomask.cli.rows import newest_score
from cytomask.cli.tables import flags_text
from cytomask.metrics import Score
from cytomask.records import EvaluationRow, JobRow

EVALUATION = "EVAL#"
FAILURES = ("REJECTED", "FAILED")
COUNTS = ("true_positive", "false_positive", "false_negative")
ALL, NO_GROUP = "all groups", "no group"


@dataclass(frozen=True)
class Job:
    """A job's row and those of its evaluations, the oldest first."""

    row: JobRow
    evaluations: Sequence[EvaluationRow] = ()

    @property
    def model(self) -> str:
        """The sha256 of the model; empty if no model has worked on the job."""
        return self.row.model_sha256 or ""

    @property
    def group(self) -> str:
        """The label that the job is reported by; may be empty."""
        return self.row.group or ""

    @property
    def flags(self) -> list[str]:
        """Names of the mask's quality flags."""
        return self.row.quality

    @property
    def doubts(self) -> str:
        """The flags with their numbers, such as `UNCERTAIN=0.42`, separated by spaces."""
        return flags_text(self.flags, self.row.quality_values)

    @property
    def score(self) -> EvaluationRow | None:
        """Return the score against the newest ground truth; None if the job was not scored."""
        return newest_score(self.evaluations)

    @property
    def iou(self) -> float:
        """The IoU of that score, 0..1."""
        return (self.score and self.score.iou) or 0.0

    @property
    def failure(self) -> JobRow | EvaluationRow | None:
        """The row of the image or of its newest evaluation, if that failed or was rejected."""
        if self.row.status in FAILURES:
            return self.row
        newest = self.evaluations[-1] if self.evaluations else None
        return newest if newest and newest.evaluation_status in FAILURES else None


@dataclass(frozen=True)
class Summary:
    """The measures of some jobs; the mean of no values is None.

    Attributes:
        images: number of addresses. An image has several jobs if its bytes, the model or the request differ.
        masks: number of jobs with a mask.
        scored: number of masks with a score. Means give each of these masks the same weight; pooled ratios
            count the pixels of all of them together.
        confluence: mean over all masks.
        scored_confluence, true_confluence: means over the scored masks, and over their ground truths.
        flagged: number of masks with a quality flag.
        failures: number of failures of each kind.
    """

    images: int
    jobs: int
    masks: int
    scored: int
    mean_iou: float | None
    pooled_iou: float | None
    mean_dice: float | None
    pooled_dice: float | None
    mean_boundary_f1: float | None
    confluence: float | None
    scored_confluence: float | None
    true_confluence: float | None
    flagged: int
    failures: Counter[str]


@dataclass(frozen=True)
class Line:
    """The measures of one model on one group, or on `ALL` groups together."""

    group: str
    model: str
    summary: Summary


MEASURES: Mapping[str, Callable[[Summary], float | None]] = {
    "images": lambda summary: summary.images,
    "jobs": lambda summary: summary.jobs,
    "masks": lambda summary: summary.masks,
    "scored": lambda summary: summary.scored,
    "IoU": lambda summary: summary.mean_iou,
    "IoU pooled": lambda summary: summary.pooled_iou,
    "Dice": lambda summary: summary.mean_dice,
    "Dice pooled": lambda summary: summary.pooled_dice,
    "boundary F1": lambda summary: summary.mean_boundary_f1,
    "confluence": lambda summary: summary.confluence,
    "confluence scored": lambda summary: summary.scored_confluence,
    "confluence true": lambda summary: summary.true_confluence,
    "flagged": lambda summary: summary.flagged,
    "failures": lambda summary: summary.failures.total(),
}


# The columns of each table.
OF_MASKS = ("images", "jobs", "masks", "flagged", "failures", "confluence")
OF_SCORES = (
    "scored",
    "IoU",
    "IoU pooled",
    "Dice",
    "Dice pooled",
    "boundary F1",
    "confluence scored",
    "confluence true",
)


def models_of(jobs: Iterable[Job]) -> list[str]:
    """List the models, the oldest job's first; jobs without a model come last."""
    oldest_first = sorted(jobs, key=lambda job: job.row.created_at)
    return sorted(dict.fromkeys(job.model for job in oldest_first), key=lambda model: not model)


def compare(jobs: Sequence[Job]) -> list[Line]:
    """Measure every model on each group, and on all jobs if there are several groups."""
    models = models_of(jobs)
    groups = sorted({job.group for job in jobs})
    parts = [(ALL, jobs)] if len(groups) > 1 else []
    parts += [(group or NO_GROUP, [job for job in jobs if job.group == group]) for group in groups]
    return [
        Line(title, model, summarise(own))
        for title, part in parts
        for model in models
        if (own := [job for job in part if job.model == model])
    ]


def period_of(jobs: Iterable[Job]) -> str:
    """Name the dates of the oldest and of the newest job."""
    dates = sorted(job.row.created_at[:10] for job in jobs)
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def summarise(jobs: Sequence[Job]) -> Summary:
    """Measure jobs by the rules of `metrics.Score`, each by its newest score."""
    masks = [job.row for job in jobs if job.row.status == "SUCCEEDED"]
    scores = [score for job in jobs if (score := job.score)]
    pooled = sum((Score(*(getattr(row, name) or 0 for name in COUNTS)) for row in scores), Score(0, 0, 0))
    return Summary(
        images=len({job.row.image for job in jobs if job.row.image}),
        jobs=len(jobs),
        masks=len(masks),
        scored=len(scores),
        mean_iou=_mean(scores, "iou"),
        pooled_iou=pooled.iou if scores else None,
        mean_dice=_mean(scores, "dice"),
        pooled_dice=pooled.dice if scores else None,
        mean_boundary_f1=_mean(scores, "boundary_f1"),
        confluence=_mean(masks, "confluence"),
        scored_confluence=_mean(scores, "confluence"),
        true_confluence=_mean(scores, "true_confluence"),
        flagged=sum(bool(job.flags) for job in jobs),
        failures=Counter(kind_of(failure) for job in jobs if (failure := job.failure)),
    )


def kind_of(failure: JobRow | EvaluationRow) -> str:
    """Name a failure by its status and code, after the word `score` if an evaluation failed."""
    code = failure.error_code or "without a code"
    if isinstance(failure, EvaluationRow):
        return f"score {failure.evaluation_status} {code}"
    return f"{failure.status} {code}"


def warn_of_different_images(jobs: Sequence[Job]) -> str | None:
    """Warn if the models were scored on different images, so that their numbers cannot be compared."""
    images: dict[str, set[str]] = {}
    for job in jobs:
        if job.score:
            images.setdefault(job.model, set()).add(job.row.image or "")
    common = set.intersection(*images.values()) if images else set()
    if all(found == common for found in images.values()):
        return None
    return (
        f"The models were scored on different images and share only {len(common)} of them, so their numbers "
        "are not comparable."
    )


def worst_median_best(jobs: Iterable[Job], most: int) -> dict[str, list[Job]]:
    """Choose the scored jobs with the lowest, middle and highest IoU, at most `most` of each, none twice."""
    ordered = sorted((job for job in jobs if job.score), key=lambda job: job.iou)
    count = max(1, min(most, len(ordered) // 3))
    worst, rest = ordered[:count], ordered[count:]
    best, middle = rest[max(len(rest) - count, 0) :], rest[: max(len(rest) - count, 0)]
    first = max(len(middle) - count, 0) // 2
    return {"worst": worst, "median": middle[first : first + count], "best": best}


def _mean(rows: Sequence[JobRow] | Sequence[EvaluationRow], name: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return fmean(values) if values else None


def text_of(value: float | None) -> str:
    """Format a count, or a ratio with three decimals; None becomes -."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
