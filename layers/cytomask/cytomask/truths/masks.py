"""Reads ground truths: mask images of any kind, in which every pixel that is not zero is cell.

What is stored counts, not what it looks like: tifffile and ImageJ write masks in which 0 is said to be white.
"""

from collections.abc import Iterator, Sequence

from cytomask.errors import AmbiguousChannels, GroundTruthMismatch, UnreadableImage
from cytomask.images import JPEG_MAGIC, ImageFile, Limits, open_image, read_pages
from cytomask.metrics import Mask
from cytomask.truths.limits import Size


def read_ground_truth(content: bytes, name: str, sizes: Sequence[Size], limits: Limits) -> Iterator[Mask]:
    """Yields each page as (H, W) bool: of 0 and 255, 0 and 1, soft, RGB masks and label images alike.

    Args:
        content: the file's bytes.
        name: what to call it in errors.
        sizes: height and width of every page of the mask that it is the truth of.
        limits: of its pages.

    Raises:
        GroundTruthMismatch: the pages are not of these sizes, by their headers.
        UnreadableImage: no image, a damaged one, or a JPEG.
        RejectedInput: whatever else `open_image` and `read_pages` refuse.
    """
    if content.startswith(JPEG_MAGIC):
        raise UnreadableImage(
            f"{name} is a JPEG, in which hardly a pixel stays zero; save the mask as PNG or TIFF"
        )
    with open_image(content, name) as image:
        _require_sizes(image, sizes)
        _require_one_channel(image)
        for page in read_pages(image, limits=limits):
            yield page.pixels != image.pages[page.index].zero


def _require_sizes(image: ImageFile, sizes: Sequence[Size]) -> None:
    if len(image.pages) != len(sizes):
        raise GroundTruthMismatch(
            f"{image.name} has {len(image.pages)} pages and the mask {len(sizes)}; "
            "upload a ground truth with a page for each"
        )
    for page, (height, width) in zip(image.pages, sizes, strict=True):
        if (page.height, page.width) != (height, width):
            raise GroundTruthMismatch(
                f"{image.name} is {page.width} x {page.height} pixels and the mask {width} x {height}; "
                "upload a ground truth of the image's own size"
            )


def _require_one_channel(image: ImageFile) -> None:
    for page in image.pages:
        if page.channels > 1 and not page.colour:
            raise AmbiguousChannels(
                f"{image.name} has {page.channels} channels; save the one that holds the mask"
            )
