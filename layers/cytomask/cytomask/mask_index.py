"""Index mask images by the names of the images whose ground truth they may be.

`MASK#<name>` has a row for every mask in the ground-truth bucket that may belong to an image of that name:
`plate 1/a_cp_masks.TIFF` may belong to `plate 1/a`. `truths.names` derives the names.
"""

from cytomask.addresses import S3Object
from cytomask.table import Table, fitted, timestamp
from cytomask.truths import names

MASK = "MASK#"


class MaskIndex:
    """Read and write these rows. DynamoDB's faults pass through as ClientError."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def name(self, mask: S3Object, *, now: float) -> None:
        """Index a mask under the images whose ground truth it may be."""
        for stem in filter(None, names.truth_stems(mask.key)):
            self._table.put(
                {
                    "job_id": f"{MASK}{stem}",
                    "record": fitted(mask.uri),
                    "key": mask.key,
                    "created_at": timestamp(now),
                }
            )

    def naming(self, key: str) -> list[str]:
        """List the keys of the masks that may be the ground truth of the image with this key."""
        stems = filter(None, names.image_stems(key))
        return [str(row["key"]) for stem in stems for row in self._table.rows(f"{MASK}{stem}")]
