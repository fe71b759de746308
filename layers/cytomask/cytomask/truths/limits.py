"""How large a ground truth may be; importing it loads no image decoder and no pycocotools."""

from cytomask.errors import UnreadableCoco

Size = tuple[int, int]  # height and width in pixels

MEBI = 2**20
MOST_COCO_BYTES = 256 * MEBI


def require_coco_size(size: int, name: str) -> None:
    """Refuse a COCO file by its length in bytes; raises UnreadableCoco."""
    if size > MOST_COCO_BYTES:
        raise UnreadableCoco(
            f"{name} has {size / MEBI:.0f} MiB, the limit is {MOST_COCO_BYTES // MEBI} MiB; "
            "split it into files of fewer images"
        )
