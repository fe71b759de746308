"""Render the report as one self-contained HTML file: the measures, and images with their masks.

It reads the version of an image that was segmented and the version of a ground truth that was scored. If
either is gone, a sentence replaces the picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from botocore.exceptions import ClientError
from numpy.typing import NDArray

from cytomask import __version__, images
from cytomask.addresses import S3Object, parse_uri
from cytomask.cli.files import count_of
from cytomask.cli.html import render
from cytomask.cli.pictures import compared_uri, grey_page, png_uri, share_of
from cytomask.cli.rows import read_result
from cytomask.cli.stack import refusal
from cytomask.cli.summary import (
    EVALUATION,
    MEASURES,
    OF_MASKS,
    OF_SCORES,
    Job,
    Line,
    compare,
    kind_of,
    models_of,
    period_of,
    text_of,
    warn_of_different_images,
    worst_median_best,
)
from cytomask.cli.tables import number
from cytomask.errors import CytomaskError, ImageReplaced, MaskReplaced
from cytomask.images import AGREED, FALSE_NEGATIVE, FALSE_POSITIVE
from cytomask.metrics import Mask
from cytomask.records import EvaluationRow, JobRow, Result
from cytomask.storage import Storage
from cytomask.truths.masks import read_ground_truth

MOST_IMAGES = 3  # of the worst, the median and the best, for each model
MOST_FAILURES = 100
LONGEST_SIDE = 704  # pixels, LIVECell's width, so that its images are shown at full size

COLOURS = {
    "cell in both": AGREED,
    "false positive, in the mask only": FALSE_POSITIVE,
    "false negative, in the ground truth only": FALSE_NEGATIVE,
}


@dataclass(frozen=True)
class Compared:
    """One page of a job.

    Attributes:
        pixels: (H, W), any real dtype.
        mask, cells: (H, W) bool, the mask and the ground truth.
        notes: its number in a stack, and whether it was scaled down.
    """

    pixels: NDArray[np.generic]
    mask: Mask
    cells: Mask
    notes: list[str]


def render_page(storage: Storage, title: str, jobs: Sequence[Job], names: Mapping[str, str]) -> bytes:
    """Render the whole file in UTF-8; a sentence replaces a picture that cannot be drawn.

    Args:
        storage: access to images, masks and ground truths.
        title: title of the page.
        jobs: at least one job, the newest first.
        names: names of the models, by sha256.
    """
    failed = [job for job in jobs if job.failure]
    flagged = [job for job in jobs if job.flags]
    return render(
        "report.html",
        title=title,
        version=__version__,
        count=count_of(len(jobs), "job"),
        period=period_of(jobs),
        warning=warn_of_different_images(jobs),
        tables=list(_tables(compare(jobs), names)),
        sections=list(_sections(storage, jobs, names)),
        colours=COLOURS,
        flagged=[_flagged(job) for job in flagged[:MOST_FAILURES]],
        other_flagged=max(len(flagged) - MOST_FAILURES, 0),
        failures=[_failure(job) for job in failed[:MOST_FAILURES]],
        older_failures=max(len(failed) - MOST_FAILURES, 0),
    )


def _tables(lines: Sequence[Line], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Fill the tables of masks and of scores, with a line for each group and model."""
    scored = [line for line in lines if line.summary.scored]
    for title, measures, some in (("Masks", OF_MASKS, lines), ("Scores", OF_SCORES, scored)):
        if some:
            yield {
                "title": title,
                "measures": measures,
                "lines": [
                    {
                        "group": line.group,
                        "model": names[line.model],
                        "sha256": line.model,
                        "cells": [text_of(MEASURES[name](line.summary)) for name in measures],
                    }
                    for line in some
                ],
            }


def _sections(storage: Storage, jobs: Sequence[Job], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Draw the worst, median and best masks of each model that has scores."""
    for model in models_of(jobs):
        chosen = worst_median_best([job for job in jobs if job.model == model], MOST_IMAGES)
        figures = [
            _figure(storage, which, job, score)
            for which, some in chosen.items()
            for job in some
            if (score := job.score)
        ]
        if figures:
            yield {"model": names[model], "figures": figures}


def _figure(storage: Storage, which: str, job: Job, score: EvaluationRow) -> dict[str, Any]:
    """Describe one job and draw its pictures."""
    notes, pictures = [], {}
    try:
        compared = read_compared(storage, job, score)
        notes, pictures = compared.notes, draw(compared)
    except CytomaskError as error:
        notes = [f"not drawn: {error}"]
    except ClientError as error:
        notes = [f"not drawn: {refusal(error)}"]
    said = f"IoU {number(score.iou)}, Dice {number(score.dice)}"
    known = {"which": which, "image": job.row.image, "job_id": job.row.job_id, "score": said}
    return known | {"notes": notes, "pictures": pictures}


def _flagged(job: Job) -> tuple[str, ...]:
    row = job.row
    between = f"{number(row.confluence_low)} to {number(row.confluence_high)}"
    return row.image or "", job.group, job.doubts, number(row.confluence), between, row.job_id


def _failure(job: Job) -> tuple[str, ...]:
    failure = job.failure or job.row
    what = job.row.image or f"message {job.row.message or ''}"
    return what, job.group, kind_of(failure), failure.error or "", job.row.job_id


def read_compared(storage: Storage, job: Job, score: EvaluationRow) -> Compared:
    """Read the first page of a job, its mask and its ground truth, as they were when the mask was scored.

    Raises:
        CytomaskError: one of them is gone, was replaced, is too large or is damaged.
        ClientError: S3 refused to read one of them.
    """
    result, image = _result(storage, job.row)
    channel = result.parameters.channel if result.parameters else None
    page = result.pages[0]
    mask = replace(parse_uri(page.mask or "", "mask"), etag=page.mask_etag)
    truth = _truth(storage, score)
    sizes = [(each.height, each.width) for each in result.pages]
    cells = read_ground_truth(storage.read_image(truth, images.LIMITS), truth.uri, sizes, images.LIMITS)
    notes = []
    if len(sizes) > 1:
        notes.append(f"this is page {page.page}, the first of {len(sizes)} that are scored together")
    if max(sizes[0]) > LONGEST_SIDE:
        notes.append(f"scaled down from {page.width} x {page.height} pixels")
    return Compared(
        _pixels(storage, image, page.page, channel),
        _pixels(storage, mask, 0, None) > 0,
        next(cells),
        notes,
    )


def _result(storage: Storage, row: JobRow) -> tuple[Result, S3Object]:
    """Read a job's result and its image; raise MaskReplaced if the result is gone or another job's."""
    result = read_result(storage, row.result)
    if result is None or result.job_id != row.job_id or result.image is None:
        raise MaskReplaced(f"{row.result} was deleted, or a newer upload of the image replaced it")
    found = result.image
    return result, S3Object(found.bucket, found.key, found.version_id, found.etag, found.uploaded_at)


def _truth(storage: Storage, evaluation: EvaluationRow) -> S3Object:
    """Find the ground truth of a score, or the mask that was drawn from a COCO file.

    Raises:
        ImageReplaced: it is gone, or another version took its place.
    """
    drawn = evaluation.ground_truth_mask
    place = parse_uri(drawn or evaluation.ground_truth or "", "ground_truth")
    version = evaluation.record.removeprefix(EVALUATION)
    for asked in (place, replace(place, version_id=version)):
        found = storage.find(asked)
        if found and (drawn or found.version == version):
            return found
    raise ImageReplaced(f"{place.uri} is no longer there in the version that was scored, {version}")


def _pixels(storage: Storage, place: S3Object, index: int, channel: int | None) -> NDArray[Any]:
    """Read one page, (H, W) of any real dtype; raises like `Storage.read_image` and `images.read_pages`."""
    with images.open_image(storage.read_image(place, images.LIMITS), place.uri) as opened:
        return next(images.read_pages(opened, [index], channel)).pixels


def draw(compared: Compared) -> dict[str, str]:
    """Return image, mask and disagreement by name, as data addresses of PNGs."""
    return {
        "image": png_uri(grey_page(compared.pixels, LONGEST_SIDE)),
        "mask": png_uri(share_of(compared.mask, LONGEST_SIDE) * 255),
        "disagreement": compared_uri(compared.mask, compared.cells, LONGEST_SIDE),
    }
