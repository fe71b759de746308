"""Read TIFF, PNG and JPEG files into grey pages, headers first; write masks as PNG.

Nothing is guessed: a file that does not hold rows and columns of one channel is refused by name.
"""

from cytomask.images.encode import (
    AGREED,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    OUTLINE,
    display_range,
    encode_mask,
    encode_overlay,
    encode_probability,
)
from cytomask.images.jpeg import JPEG_MAGIC
from cytomask.images.pages import (
    BYTES_OF_WORK,
    LIMITS,
    MEBI,
    MEGA,
    ImageFile,
    Limits,
    Page,
    PageHeader,
    PlaneFacts,
    StoredPage,
    check,
    require_size,
)
from cytomask.images.png import PNG_MAGIC
from cytomask.images.reading import open_image, read_page, read_pages, read_stored, work_of

__all__ = [
    "AGREED",
    "BYTES_OF_WORK",
    "FALSE_NEGATIVE",
    "FALSE_POSITIVE",
    "JPEG_MAGIC",
    "LIMITS",
    "MEBI",
    "MEGA",
    "OUTLINE",
    "PNG_MAGIC",
    "ImageFile",
    "Limits",
    "Page",
    "PageHeader",
    "PlaneFacts",
    "StoredPage",
    "check",
    "display_range",
    "encode_mask",
    "encode_overlay",
    "encode_probability",
    "open_image",
    "read_page",
    "read_pages",
    "read_stored",
    "require_size",
    "work_of",
]
