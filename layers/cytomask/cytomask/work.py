"""Derive from a request its job id, the keys of its outputs, and the keys of its possible ground truths."""

import hashlib
import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

from cytomask.addresses import LONGEST_KEY, S3Object
from cytomask.requests import Parameters, SegmentRequest

CLEANING = ("min_size_px", "min_size_um2", "fill_holes", "pixel_size_um")
LONGEST_SUFFIX = len(".p000000.probability.png")


@dataclass(frozen=True)
class Work:
    """A request with a known image version and model. Each job row and mask stands for one."""

    request: SegmentRequest
    model_sha256: str
    model_threshold: float

    @cached_property
    def parameters(self) -> Parameters:
        """The request's parameters with the threshold resolved: its own, or the model's."""
        return resolve(self.request.parameters, self.model_threshold)

    @cached_property
    def job_id(self) -> str:
        """32 hex digits of a SHA-256 over everything that affects the mask: the same work has the same id."""
        image, parameters = self.request.image, self.parameters
        identity = [
            image.bucket,
            image.key,
            image.version_id or [image.etag, image.uploaded_at],
            self.model_sha256,
            parameters.threshold,
            parameters.mode,
            parameters.pages,
            parameters.channel,
            list(parameters.outputs),
            *self._cleaning,  # nothing by default, so that ids of earlier releases stay as they are
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]

    @property
    def _cleaning(self) -> list[dict[str, object]]:
        """The request's cleaning parameters and pixel size, if any."""
        given = {name: getattr(self.parameters, name) for name in CLEANING}
        asked = {name: value for name, value in given.items() if value}
        return [asked] if asked else []

    @property
    def prefix(self) -> str:
        """Prefix of its outputs if it does not own its image's name."""
        return job_prefix(self.job_id, self.request.image.key)

    def own_name(self, input_bucket: str, attached: Set[str]) -> str | None:
        """Return the image's name if the outputs go there; None if they go under the job's prefix."""
        default = self.parameters == Parameters(self.model_threshold)
        return image_name(self.request.image, input_bucket, attached) if default else None


def resolve(parameters: Parameters, model_threshold: float) -> Parameters:
    """Resolve the threshold: the request's own, or the model's."""
    return replace(parameters, threshold=model_threshold) if parameters.threshold is None else parameters


def image_name(image: S3Object, input_bucket: str, attached: Set[str]) -> str | None:
    """Return the name for an image's outputs; None if another image could have the same name.

    An image in the input bucket is named by its key, an image in an attached bucket `<bucket>/<key>`.

    Args:
        image: the image, in any version.
        input_bucket: the stack's input bucket.
        attached: the other buckets whose images have names.
    """
    if image.bucket == input_bucket:
        bucket, found, _ = image.key.partition("/")
        name = None if found and bucket in attached else image.key
    else:
        name = f"{image.bucket}/{image.key}" if image.bucket in attached else None
    if name is None or name.startswith("jobs/") or re.search(r"\.p\d{4,}$", name) or not fits(name):
        return None
    return name


def rejected_message_id(body: str) -> str:
    """Derive a job id from the message itself, because it names no image."""
    return hashlib.sha256(f"message {body}".encode(errors="backslashreplace")).hexdigest()[:32]


def fits(key: str) -> bool:
    """Tell whether a key with our longest suffix stays within S3's limit."""
    return len(key.encode()) + LONGEST_SUFFIX <= LONGEST_KEY


def job_prefix(job_id: str, key: str) -> str:
    """Return the folder for the outputs of a job that does not own its image's name."""
    own = f"jobs/{job_id}/{key}"
    return own if fits(own) else f"jobs/{job_id}/image"


def ground_truth_keys(key: str) -> Sequence[str]:
    """List the keys that a ground truth of the image `key` may have, the likeliest first."""
    stem = key.removesuffix(PurePosixPath(key).suffix)
    names = dict.fromkeys([key, f"{key}.png", f"{stem}.png", f"{stem}_mask.png"])
    return [name for name in names if len(name.encode()) <= LONGEST_KEY]


def coco_name(key: str) -> str:
    """Return the name that a COCO file may use for the image `key`: the file's, without folders."""
    return PurePosixPath(key).name


def coco_prefix(coco: S3Object) -> str:
    """Return the prefix of a COCO file's parts, in one version; each image's is under its `coco_name`."""
    return f"jobs/coco/{hashlib.sha256(f'{coco.uri} {coco.version}'.encode()).hexdigest()[:32]}"
