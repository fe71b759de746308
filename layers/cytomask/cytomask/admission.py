"""Which buckets a message may name."""

from collections.abc import Set

from cytomask.addresses import S3Object
from cytomask.errors import ForeignBucket
from cytomask.requests import SegmentRequest


def require_served(request: SegmentRequest, *, served: Set[str], outputs: str) -> None:
    """Raise ForeignBucket if a request names a forbidden bucket; see `admitted` for the buckets."""
    if request.image.bucket == outputs:
        raise ForeignBucket(
            f"{request.image.uri} is one of this stack's own outputs, not an image; name an image in the "
            "input bucket"
        )
    require_served_bucket(request.image, served)
    if request.ground_truth:
        require_ground_truth(request.ground_truth, served=served, outputs=outputs)


def require_ground_truth(truth: S3Object, *, served: Set[str], outputs: str) -> None:
    """Raise ForeignBucket if an object is a part of a COCO file, or in a bucket that is not served."""
    if truth.bucket == outputs and truth.key.startswith("jobs/coco/"):
        raise ForeignBucket(
            f"{truth.uri} is a part of a COCO file that this stack has split; name the file itself"
        )
    require_served_bucket(truth, served)


def require_served_bucket(named: S3Object, served: Set[str]) -> None:
    """Raise ForeignBucket if an object is outside these buckets."""
    if named.bucket not in served:
        raise ForeignBucket(
            f"{named.uri} is in a bucket that this stack does not serve: copy it into one of its own, "
            "or have whoever runs the stack add the bucket to AllowedBuckets"
        )
