"""TIFFs that are cut short or damaged are refused, and never read as something else."""

import io
import struct

import numpy as np
import pytest
import tifffile
from image_files import (
    bare_tiff,
    noise,
    plain_tiff,
    planes,
    read,
    read_one,
    read_or_refuse,
    same,
    with_last_pointer,
)
from tiffs import tiff

from cytomask.errors import (
    UnreadableImage,
)


@pytest.mark.parametrize(
    "data",
    [
        plain_tiff(*noise(2, 9, 20)),
        plain_tiff(*noise(2, 9, 20), compression="lzw"),
        plain_tiff(*noise(2, 9, 20), compression="zlib", rowsperstrip=4),
        plain_tiff(*noise(2, 16, 20), tile=(16, 16)),
        plain_tiff(*noise(2, 9, 20), writer={"bigtiff": True}),
        plain_tiff(*noise(2, 9, 20), writer={"byteorder": ">"}),
        tiff(noise(2, 9, 20)),
        tiff(*noise(2, 9, 20)),
        tiff(noise(2, 9, 20), truncate=True),
        tiff(noise(2, 9, 20), writer={"imagej": True}, metadata={"axes": "TYX"}),
        tiff(noise(2, 9, 20), writer={"imagej": True}, metadata={"axes": "TYX"}, truncate=True),
        tiff(noise(2, 9, 20), writer={"imagej": True}, metadata={"axes": "TYX"}, compression="lzw"),
        tiff(noise(2, 9, 20), writer={"ome": True}, metadata={"axes": "TYX"}),
    ],
    ids=["plain", "lzw", "zlib", "tiled", "bigtiff", "big-endian", "shaped", "two-shaped", "shaped-run",
         "imagej", "imagej-run", "imagej-lzw", "ome"],
)  # fmt: skip
def test_a_truncated_tiff_is_refused_or_read_whole(data: bytes) -> None:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        stack = np.stack(
            [page for series in file.series for page in series.asarray().reshape(-1, *series.shape[-2:])]
        )
    assert same(read(data), stack)
    for end in range(len(data)):
        found = read_or_refuse(data[:end])
        assert found is None or same(found, stack), f"cut to {end} of {len(data)} bytes"


def test_a_wrong_byte_in_a_tiff_causes_at_most_a_refusal() -> None:
    whole = plain_tiff(*noise(2, 6, 8), compression="lzw")
    outcomes = [
        read_or_refuse(whole[:at] + bytes([wrong]) + whole[at + 1 :])
        for at in range(len(whole))
        for wrong in (0x00, 0xFF)
    ]
    assert outcomes[:4] == [None] * 4  # the file no longer says that it is a TIFF
    assert all(page.ndim == 2 for pages in outcomes for page in pages or [])


def test_a_chain_of_pages_that_leads_past_the_file_is_refused() -> None:
    data = plain_tiff(*planes(3))
    assert len(read(data)) == 3
    with pytest.raises(UnreadableImage, match="page 3 is said to be at byte 4000000000"):
        read(with_last_pointer(data, 4_000_000_000))


@pytest.mark.parametrize("count", [1, 3, 150])
def test_a_circular_chain_of_pages_is_refused(count: int) -> None:
    data = plain_tiff(*noise(count, 2, 2))
    first = struct.unpack_from("<I", data, 4)[0]
    with pytest.raises(UnreadableImage, match="no new page"):
        read(with_last_pointer(data, first))


def test_a_missing_strip_or_tile_is_refused_instead_of_read_as_black() -> None:
    data = bytearray(plain_tiff(noise(32, 32), tile=(16, 16)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        counts = file.pages.first.tags["TileByteCounts"]
        assert counts.count == 4
        data[counts.valueoffset : counts.valueoffset + counts.count * 2] = bytes(8)
    with pytest.raises(UnreadableImage, match="pixels are missing"):
        read(bytes(data))


def test_too_few_strips_are_refused() -> None:
    assert read_one(bare_tiff(4, 2)).shape == (4, 2)
    with pytest.raises(UnreadableImage, match="pixels are missing"):
        read(bare_tiff(4, 2, tag278=2, tag279=4))
