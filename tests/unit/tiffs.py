"""Write TIFFs for the tests."""

import io
from typing import Any

import tifffile
from numpy.typing import NDArray


def tiff(*arrays: NDArray[Any], writer: dict[str, Any] | None = None, **options: Any) -> bytes:
    """Write a TIFF in which each array is one page or one series."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **(writer or {})) as file:
        for array in arrays:
            file.write(array, **{"contiguous": False, **options})
    return stream.getvalue()
