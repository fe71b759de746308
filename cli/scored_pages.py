"""Read a stack's images that have a ground truth, with their pixels and their newest ground truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from cytomask import images
from cytomask.addresses import S3Object, parse_uri
from cytomask.cli.console import complain
from cytomask.cli.rows import Search, newest_score, read_result
from cytomask.errors import CytomaskError, ImageNotFound
from cytomask.images import Page
from cytomask.metrics import Mask
from cytomask.storage import Storage
from cytomask.truths.masks import read_ground_truth

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack
    from cytomask.records import EvaluationRow, JobRow

JOBS_AT_ONCE = 50
MOST_JOBS = 5000  # jobs whose scores are looked up


@dataclass(frozen=True)
class ScoredImage:
    """An image with its truth, page by page: both (H, W), of one shape."""

    uri: str
    pages: tuple[tuple[Page, Mask], ...]


def scored_images(stack: "Stack", search: Search, limit: int) -> Iterator[ScoredImage]:
    """Yield the newest images that were scored, each with its newest ground truth.

    An image that is gone, or no longer has its truth's size, is skipped with a message.

    Args:
        stack: the stack to search.
        search: the jobs to consider; only finished ones have scores.
        limit: the most images to yield. Only the newest 5,000 jobs are looked at.
    """
    storage, found = Storage(stack.s3), 0
    for job, evaluation in _scored(stack, search):
        if found == limit:
            return
        try:
            yield read_scored(storage, job, evaluation)
        except (ClientError, CytomaskError) as error:
            complain(f"left out: {job.image}: {error}")
        else:
            found += 1


def _scored(stack: "Stack", search: Search) -> "Iterator[tuple[JobRow, EvaluationRow]]":
    """Yield the newest scored job of each image with its newest score."""
    jobs = islice((row for row in stack.rows.jobs(search) if row.image and row.result), MOST_JOBS)
    seen: set[str] = set()
    while some := list(islice(jobs, JOBS_AT_ONCE)):
        for job, evaluations in zip(some, stack.rows.evaluations(some), strict=True):
            score = newest_score(evaluations)
            if score and job.image and job.image not in seen:
                seen.add(job.image)
                yield job, score


def read_scored(storage: Storage, job: "JobRow", evaluation: "EvaluationRow") -> ScoredImage:
    """Read the pages that a job segmented, and their truth.

    Raises:
        RejectedInput: one of them is gone, or cannot be read.
        ClientError: S3 refuses.
    """
    result = read_result(storage, job.result)
    if result is None or not result.pages:
        raise ImageNotFound(f"the result {job.result} is gone")
    place = _present(storage, job.image or "")
    # For a COCO file, the evaluation drew a mask and stored it.
    truth = _present(storage, evaluation.ground_truth_mask or evaluation.ground_truth or "")
    sizes = [(page.height, page.width) for page in result.pages]
    channel = result.parameters.channel if result.parameters else None
    limits = images.Limits()
    with images.open_image(storage.read_image(place, limits), place.uri, limits) as image:
        pages = list(images.read_pages(image, [page.page for page in result.pages], channel, limits))
    truths = list(read_ground_truth(storage.read_image(truth, limits), truth.uri, sizes, limits))
    return ScoredImage(place.uri, tuple(zip(pages, truths, strict=True)))


def _present(storage: Storage, uri: str) -> S3Object:
    place = parse_uri(uri, "image")
    found = storage.find(S3Object(place.bucket, place.key))
    if found is None:
        raise ImageNotFound(f"{uri} is gone")
    return found
