"""Rules for all formats: paths and bytes, names, empty files, NaN pixels."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from image_files import (
    HEIGHT,
    WIDTH,
    bare_tiff,
    encoded,
    noise,
    plain_tiff,
    planes,
    png_of_header,
    read,
    read_one,
    read_or_refuse,
)
from real_images import LIVECELL, needs
from tiffs import tiff

from cytomask import images
from cytomask.errors import (
    EmptyImage,
    NonFinitePixels,
    UnreadableImage,
)


def test_a_path_and_its_bytes_read_the_same(tmp_path: Path) -> None:
    stored = planes()
    for name, data in {
        "page.tif": plain_tiff(stored, compression="lzw"),
        "page.png": encoded(stored, "PNG"),
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert np.array_equal(read_one(path), stored)
        assert np.array_equal(read_one(data), stored)
        assert np.array_equal(images.read_page(path).pixels, stored)


def test_the_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    for name in ("page.png", "page.ndpi", "page"):
        path = tmp_path / name
        path.write_bytes(plain_tiff(planes()))
        assert np.array_equal(read_one(path), planes())


def test_a_file_without_bytes_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "nothing.tif"
    path.touch()
    for source in (b"", path):
        with pytest.raises(EmptyImage, match="no bytes"):
            read(source)


@pytest.mark.parametrize("data", [b"not an image at all", b"II", b"BM" + bytes(60), b"GIF89a" + bytes(60)])
def test_other_formats_are_refused_by_their_first_bytes(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match="not a TIFF, PNG or JPEG"):
        read(data)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plate 7.tif"
    path.write_text("not an image")
    with pytest.raises(UnreadableImage, match="plate 7"):
        read(path)
    with (
        pytest.raises(UnreadableImage, match="s3://lab/plate 8"),
        images.open_image(b"text", "s3://lab/plate 8"),
    ):
        pass


@pytest.mark.parametrize(("height", "width"), [(0, 8), (8, 0), (0, 0)])
def test_a_page_without_pixels_is_empty(height: int, width: int) -> None:
    with pytest.raises(EmptyImage):
        read(bare_tiff(height, width))


def test_a_tiff_without_pages_is_empty() -> None:
    with pytest.raises(EmptyImage, match="without pages"):
        read(b"II*\0" + bytes(8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinite_pixels_are_counted_and_refused(bad: float, dtype: str) -> None:
    stored = planes().astype(dtype)
    stored[3, 4:6] = bad
    with pytest.raises(NonFinitePixels, match="2 pixels"):
        read(plain_tiff(stored))


def test_nan_in_a_colour_is_refused() -> None:
    rgb = noise(HEIGHT, WIDTH, 3).astype(np.float32)
    rgb[0, 0, 2] = np.nan
    with pytest.raises(NonFinitePixels, match="in 1 of 3072 pixels"):
        read(plain_tiff(rgb, photometric="rgb"))


@pytest.mark.parametrize(
    "magic", [images.PNG_MAGIC, images.JPEG_MAGIC, b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0"]
)
def test_garbage_after_the_first_bytes_is_refused(magic: bytes) -> None:
    with pytest.raises(UnreadableImage):
        read(magic + noise(500).tobytes())


@pytest.mark.parametrize("fault", [MemoryError(), KeyboardInterrupt()], ids=repr)
def test_faults_outside_the_file_are_not_refusals(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(tifffile, "TiffFile", fail)
    with pytest.raises(type(fault)):
        read(plain_tiff(planes()))


def test_a_refused_file_leaves_no_warning_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    data = tiff(planes(3), writer={"imagej": True}, metadata={"axes": "TYX"}, truncate=True)
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_or_refuse(data[:-10]) is None
        assert read_or_refuse(png_of_header(10_000, 10_000)) is None
    assert caplog.records == []


@needs(LIVECELL)
def test_livecells_own_tiffs_read_as_520_by_704_pixels_of_8_bits() -> None:
    paths = sorted(LIVECELL.glob("images/*.tif"))[:5]
    assert len(paths) == 5
    for path in paths:
        page = images.read_page(path)
        assert page.pixels.shape == (520, 704)
        assert page.pixels.dtype == page.dtype == "uint8"
        assert np.ptp(page.pixels) > 50
