"""Size limits of ground truths, in a module that imports neither image decoders nor pycocotools."""

from cytomask.errors import UnreadableCoco

Size = tuple[int, int]  # height and width in pixels

MEBI = 2**20
MOST_COCO_BYTES = 256 * MEBI


def require_coco_size(size: int, name: str) -> None:
    """Raise UnreadableCoco if a COCO file has too many bytes."""
    if size > MOST_COCO_BYTES:
        raise UnreadableCoco(
            f"{name} has {size / MEBI:.0f} MiB, the limit is {MOST_COCO_BYTES // MEBI} MiB; "
            "split it into files of fewer images"
        )
