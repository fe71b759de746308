"""Files that are too large are refused by their headers."""

import struct
import tracemalloc

import numpy as np
import pytest
from image_files import HEIGHT, WIDTH, bare_tiff, encoded, noise, plain_tiff, planes, read, same
from tiffs import tiff

from cytomask import images
from cytomask.errors import (
    ImageTooLarge,
    RejectedInput,
)


def test_more_pages_than_the_limit_are_refused() -> None:
    limits = images.Limits(file_pages=4)
    assert len(read(plain_tiff(*noise(4, 2, 2)), limits=limits)) == 4
    for data in (
        plain_tiff(*noise(5, 2, 2)),
        tiff(noise(5, 2, 20), truncate=True),
    ):
        with pytest.raises(ImageTooLarge, match="more than 4 pages"):
            read(data, limits=limits)


def test_a_huge_page_is_refused_from_its_header() -> None:
    data = bare_tiff(100_000, 100_000)
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge, match=r"100000 x 100000 pixels \(10000 megapixels\)"):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < images.MEBI
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("height", "width"), [(1, 1_000_001), (1_000_001, 1)])
def test_a_page_longer_than_a_png_may_be_is_refused(height: int, width: int) -> None:
    with pytest.raises(ImageTooLarge, match=f"{width} x {height} pixels; a side may have 1000000: crop it"):
        read(tiff(np.zeros((height, width), np.uint8), metadata=None))


def test_less_memory_lowers_the_page_limit_named_in_the_error() -> None:
    data = plain_tiff(np.zeros((3000, 3000), np.uint8))
    assert images.Limits.within(3008) == images.Limits.within(10240) == images.LIMITS
    with (
        images.open_image(data, "large.tif") as image,
        pytest.raises(ImageTooLarge, match=r"\(9 megapixels\); the limit is 7\.2 megapixels.*its 512 MB"),
    ):
        images.read_pages(image, limits=images.Limits.within(512))


@pytest.mark.parametrize(
    ("data", "decoded"),
    [
        (tiff(noise(40, 50, 24), photometric="minisblack", planarconfig="contig"), 24 * 2000),
        (tiff(noise(40, 50, 3).astype(np.float64), photometric="rgb", compression="zlib"), 24 * 2000),
        (tiff(noise(7, 40, 50), metadata={"axes": "ZYX"}), 2000),
        (tiff(noise(40, 50, 7), metadata={"axes": "YXT"}), 7 * 2000),
        (encoded(noise(40, 50, 3), "PNG"), 4 * 2000),
    ],
    ids=["channels", "colours", "pages apart", "pages together", "png"],
)
def test_the_memory_limit_counts_everything_decoded_at_once(data: bytes, decoded: int) -> None:
    needed = decoded + max(decoded, 20 * 2000)
    with images.open_image(data, "wide.tif") as image:
        assert image.pages[0].decoded_bytes == decoded
        assert list(images.read_pages(image, [0], 0, images.Limits(page_bytes=needed)))
        with pytest.raises(ImageTooLarge, match=r"page 0 of wide\.tif takes .* MiB to be decoded alone"):
            images.read_pages(image, [0], 0, images.Limits(page_bytes=needed - 1))


def test_a_small_page_beside_a_huge_one_can_be_read() -> None:
    limits = images.Limits(page_pixels=1000)
    small = noise(20, 20)
    data = plain_tiff(planes(), small)
    assert same(read(data, [1], limits=limits), small[None])
    with pytest.raises(ImageTooLarge, match="page 0"):
        read(data, limits=limits)


def test_huge_tiles_or_many_samples_are_refused_before_they_are_decoded() -> None:
    for data in (
        bare_tiff(16, 16, tag322=65_536, tag323=65_536, tag324=8, tag325=100),
        bare_tiff(16, 16, tag322=16, tag323=16, tag324=8, tag325=100, tag32998=2**31),
        bare_tiff(8_000, 8_000, tag277=60_000, tag279=100),
    ):
        tracemalloc.start()
        try:
            with pytest.raises(RejectedInput):
                read(data, channel=0)
            assert tracemalloc.get_traced_memory()[1] < images.MEBI
        finally:
            tracemalloc.stop()


def test_a_jpeg_in_a_tiff_that_is_larger_than_its_page_is_refused() -> None:
    data = bytearray(plain_tiff(noise(16, 16), compression="jpeg"))
    read(bytes(data))
    size_at = data.index(b"\xff\xc0") + 5
    for side in (9_000, 60_000):
        data[size_at : size_at + 4] = struct.pack(">HH", side, side)
        with pytest.raises(ImageTooLarge):
            read(bytes(data))


def test_the_pages_of_a_job_are_counted_together() -> None:
    limits = images.Limits(job_pixels=3 * HEIGHT * WIDTH)
    data = plain_tiff(*planes(4))
    assert len(read(data, [0, 1, 2], limits=limits)) == 3
    with pytest.raises(ImageTooLarge, match="4 pages asked for"):
        read(data, limits=limits)


def test_a_file_of_too_many_bytes_is_refused_unread() -> None:
    limits = images.Limits(file_bytes=1000)
    with pytest.raises(ImageTooLarge, match="MiB"):
        read(plain_tiff(planes()), limits=limits)


@pytest.mark.parametrize("depth", [10_001, 2**20, 2**31])
def test_a_volume_of_more_planes_than_the_limit_is_refused_before_they_are_counted_out(depth: int) -> None:
    volume = {"tag32997": depth, "tag32998": depth}  # in one tile as deep
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge, match="more than 10000 pages"):
            read(bare_tiff(16, 16, tag259=8, tag322=16, tag323=16, tag324=8, tag325=10, **volume))
        assert tracemalloc.get_traced_memory()[1] < images.MEBI
    finally:
        tracemalloc.stop()
