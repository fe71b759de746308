"""Looks at the strips and tiles of a TIFF directory before they are decoded."""

import io
import math

import tifffile
from PIL import Image, UnidentifiedImageError
from tifffile import COMPRESSION, TIFF

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images.pages import Limits
from cytomask.images.series import cut_short


def require_whole(directory: tifffile.TiffPage, size: int, limits: Limits, name: str) -> None:
    """Refuse a directory whose strips or tiles are left out or lie past the end of a file of `size` bytes."""
    if directory.imagelength * directory.imagewidth > limits.page_pixels:
        return  # refused for its size, which is said better
    if _lacks_pixels(directory, size):
        raise cut_short(name)


def _lacks_pixels(directory: tifffile.TiffPage, size: int) -> bool:
    """Whether pixels lie past the file's end, or strips or tiles are left out; tifffile reads those as 0."""
    if len(directory.dataoffsets) < math.prod(directory.chunked):
        return True
    if directory.is_contiguous:
        return directory.dataoffsets[0] == 0 or directory.dataoffsets[0] + directory.nbytes > size
    segments = zip(directory.dataoffsets, directory.databytecounts, strict=True)
    return any(offset == 0 or count == 0 or offset + count > size for offset, count in segments)


def require_small(directory: tifffile.TiffPage, name: str, limits: Limits) -> None:
    """Refuses a JPEG or the like inside a TIFF that is far larger than the page, or does not say how large.

    Decoders of such segments go by the segments' own headers, those of LZW, deflate and the like by the page.
    """
    if directory.compression not in (*TIFF.IMAGE_COMPRESSIONS, COMPRESSION.LERC):
        return
    handle = directory.parent.filehandle
    for offset, count in zip(directory.dataoffsets, directory.databytecounts, strict=True):
        handle.seek(offset)
        content = io.BytesIO(handle.read(count))
        try:
            segment = Image.open(content, formats=("JPEG", "JPEG2000", "PNG", "WEBP"))
        except UnidentifiedImageError as error:
            raise UnreadableImage(
                f"{name} is packed as {COMPRESSION(directory.compression).name}, which does not tell its "
                "size before it is unpacked; save it with LZW or deflate"
            ) from error
        with segment:
            if segment.width * segment.height > limits.page_pixels:
                raise ImageTooLarge(
                    f"{name} holds a {segment.format} of {segment.width} x {segment.height} pixels; "
                    "export it anew"
                )
