"""Reads PNG and JPEG files, which hold one page each."""

from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomask.errors import UnreadableImage
from cytomask.images.pages import RGB, RGBA, PageHeader

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
PNG_DEPTH_BYTE = 24


class PillowImage:
    """A PNG or a JPEG."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self.name = name
        self._stream = stream
        with self._open() as image:
            frames = getattr(image, "n_frames", 1)
            width, height = image.size
            self._mode, self._format = image.mode, image.format
        if frames > 1:
            raise UnreadableImage(f"{name} holds {frames} frames; save them as a TIFF stack")
        grey = self._mode in ("1", "L", "LA", "I;16")
        if self._format == "PNG" and not grey:
            stream.seek(PNG_DEPTH_BYTE)
            if stream.read(1) == b"\x10":
                raise UnreadableImage(
                    f"{name} is a PNG of 16-bit colours; save it in 16-bit grey, or as TIFF"
                )
        dtype = "uint16" if self._mode == "I;16" else "uint8"
        # Pillow keeps a colour's three bytes in four.
        decoded = height * width * (np.dtype(dtype).itemsize if grey else RGBA)
        self.pages: Sequence[PageHeader] = (
            PageHeader(height, width, 1 if grey else RGB, not grey, dtype, decoded),
        )

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """As `ImageFile.decode`; transparency is left out."""
        del index
        if self._format == "PNG":
            self._open().verify()  # the checksums, which decoding alone passes over
        with self._open() as image:
            if self._mode == "I;16":
                return np.asarray(image)
            if not self.pages[0].colour:
                return np.asarray(image.convert("L"))
            colours = np.asarray(image.convert("RGB"))
        return colours if channel is None else colours[..., channel]

    def _open(self) -> Image.Image:
        self._stream.seek(0)
        return Image.open(self._stream, formats=("PNG", "JPEG"))
