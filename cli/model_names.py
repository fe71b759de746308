"""Find the names of a report's models, in the shipped manifests or in the results of their jobs."""

from collections.abc import Iterable
from typing import get_args

from botocore.exceptions import ClientError

from cytomask.cli.rows import read_result
from cytomask.cli.summary import Job
from cytomask.model.predictor import WEIGHTS, Mode, read_manifests
from cytomask.storage import Storage

DIGITS = 12  # digits of a model's sha256 that stand for an unknown name


def name_models(storage: Storage, jobs: Iterable[Job]) -> dict[str, str]:
    """Return the name of every model by its sha256; the empty sha256 of jobs without a mask is `no model`."""
    names = {"": "no model"}
    names |= {manifest.sha256: manifest.name for manifest in read_manifests(WEIGHTS, get_args(Mode)).values()}
    asked: dict[str, int] = {}
    for job in jobs:
        if job.model not in names and asked.get(job.model, 0) < 3 and job.row.result:
            asked[job.model] = asked.get(job.model, 0) + 1
            name = _written_name(storage, job)
            names |= {job.model: name} if name else {}
    return names | {job.model: job.model[:DIGITS] for job in jobs if job.model not in names}


def _written_name(storage: Storage, job: Job) -> str:
    """Return the model's name from a job's result; empty if the result is gone or unreadable."""
    try:
        result = read_result(storage, job.row.result)
    except ClientError:
        return ""
    model = result.model if result else None
    return model.name if model and model.sha256 == job.model else ""
