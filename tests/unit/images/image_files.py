"""Image files as the tests of cytomask.images write and read them."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tiffs import tiff

from cytomask import images
from cytomask.errors import (
    RejectedInput,
)

HEIGHT, WIDTH = 48, 64


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape or (HEIGHT, WIDTH), np.uint8)


def planes(*lengths: int) -> NDArray[np.uint8]:
    """Make planes that all differ: (*lengths, HEIGHT, WIDTH) uint8."""
    return noise(*lengths, HEIGHT, WIDTH)


def plain_tiff(*arrays: NDArray[Any], **options: Any) -> bytes:
    """Write a TIFF without any description, like most programs."""
    return tiff(*arrays, metadata=None, **options)


def tiff_of_writes(*writes: tuple[NDArray[Any], dict[str, Any]], **writer: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **writer) as file:
        for array, options in writes:
            file.write(array, **options)
    return stream.getvalue()


def bare_tiff(height: int, width: int, **tags: int) -> bytes:
    """Make a little-endian TIFF of one directory with nine short tags and almost no pixels."""
    values = {
        256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: height * width
    }  # fmt: skip
    values |= {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, value % 2**32) for tag, value in sorted(values.items())]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def last_pointer(data: bytes) -> int:
    """Find the offset of the last directory's empty link in a little-endian TIFF."""
    pointer = 4
    while place := struct.unpack_from("<I", data, pointer)[0]:
        pointer = place + 2 + 12 * struct.unpack_from("<H", data, place)[0]
    return pointer


def with_last_pointer(data: bytes, place: int) -> bytes:
    at = last_pointer(data)
    return data[:at] + struct.pack("<I", place) + data[at + 4 :]


def encoded(array: NDArray[Any], kind: str, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(array)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        images.PNG_MAGIC
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


def read(
    source: bytes | Path,
    wanted: list[int] | None = None,
    channel: int | None = None,
    limits: images.Limits = images.LIMITS,
) -> list[NDArray[Any]]:
    with images.open_image(source, None if isinstance(source, Path) else "field.tif", limits) as image:
        return [page.pixels for page in images.read_pages(image, wanted, channel, limits)]


def read_one(source: bytes | Path, channel: int | None = None) -> NDArray[Any]:
    pages = read(source, channel=channel)
    assert len(pages) == 1
    return pages[0]


def headers(source: bytes) -> list[images.PageHeader]:
    with images.open_image(source) as image:
        return list(image.pages)


def read_or_refuse(source: bytes) -> list[NDArray[Any]] | None:
    try:
        return read(source)
    except RejectedInput:
        return None


def same(found: list[NDArray[Any]], expected: NDArray[Any]) -> bool:
    """Tell whether the pages equal (pages, H, W)."""
    return len(found) == len(expected) and all(
        np.array_equal(page, plane) for page, plane in zip(found, expected, strict=True)
    )


def luma_of(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Convert (H, W, 3) to luma, (H, W), by ITU-R BT.601."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    grey: NDArray[np.float64] = 0.299 * red + 0.587 * green + 0.114 * blue
    return grey


def mask_of_a_disc(height: int = 40, width: int = 50, radius: int = 12) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:height, :width]
    disc: NDArray[np.bool_] = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2
    return disc


def decoded(png: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(png)))
