"""What the files of outputs are called, and which names are theirs."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cytomask.truths.names import is_image

if TYPE_CHECKING:
    from cytomask.requests import Output

RESULT = "result.json"
# The files of each output: their names in the result, and the suffixes of their keys.
OUTPUT_FILES: "Mapping[Output, Mapping[str, str]]" = {
    "mask": {"mask": "mask.png"},
    "probability": {"probability": "probability.png"},
    "overlay": {"overlay": "overlay.png"},
    "rois": {"rois": "rois.zip"},
    "geojson": {"geojson": "geojson"},
    "labels": {"labels": "labels.tif", "labels_table": "labels.csv"},
    "ome": {"ome": "mask.ome.tif"},
}
_ENDINGS = [re.escape(ending) for files in OUTPUT_FILES.values() for ending in files.values()]
# The part after the prefix in the key of a page's file.
PAGE_FILE = re.compile(rf"(\.p\d{{4,6}})?\.({'|'.join(_ENDINGS)})")
_OUTPUT = re.compile(rf"(?P<image>.+?)({PAGE_FILE.pattern}|\.{re.escape(RESULT)})", re.DOTALL)


def output_key(prefix: str, kind: str, page: int | None = None) -> str:
    """Return the key of one output: `<prefix>.mask.png`, or `<prefix>.p0003.mask.png` for page 3."""
    return f"{prefix}{'' if page is None else f'.p{page:04d}'}.{kind}"


def image_of_output(name: str) -> str | None:
    """Return the name of the image that an output was made of; None if the name is not an output's.

    `p/a.tif.p0003.labels.tif` was made of `p/a.tif`. A file with such a name is never segmented.
    """
    match = _OUTPUT.fullmatch(name)
    return match["image"] if match else None


def is_output(name: str) -> bool:
    """Tell whether a name can only be an output's: `a.tif.labels.tif`, but not a person's `a.labels.tif`."""
    return is_image(image_of_output(name) or "")
