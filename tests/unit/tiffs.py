"""TIFFs as the tests write them."""

import io
from typing import Any

import tifffile
from numpy.typing import NDArray


def tiff(*arrays: NDArray[Any], writer: dict[str, Any] | None = None, **options: Any) -> bytes:
    """A TIFF into which each array is written on its own, as one page or one series."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **(writer or {})) as file:
        for array in arrays:
            file.write(array, **{"contiguous": False, **options})
    return stream.getvalue()
