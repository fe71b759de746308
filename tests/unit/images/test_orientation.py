"""EXIF turns PNG and JPEG files upright."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import headers, noise, read
from PIL import Image, ImageOps

from cytomask import images
from cytomask.images.orientation import orientation_of, upright

TAG = 0x0112
KINDS = [
    ("PNG", "L"),
    ("PNG", "RGB"),
    ("PNG", "P"),
    ("PNG", "I;16"),
    ("PNG", "RGBA"),
    ("JPEG", "L"),
    ("JPEG", "RGB"),
]


def stated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[TAG] = orientation
    return exif


def turned(kind: str, mode: str, orientation: int) -> bytes:
    """Make a picture of 8 x 16 pixels with an EXIF orientation."""
    stored = np.kron(noise(1, 2), np.ones((8, 8), np.uint8))
    picture = Image.fromarray(stored.astype(np.uint16) * 257 if mode == "I;16" else stored)
    stream = io.BytesIO()
    (picture if mode == "I;16" else picture.convert(mode)).save(stream, kind, exif=stated(orientation))
    return stream.getvalue()


@given(st.sampled_from(KINDS), st.integers(1, 8))
def test_a_picture_is_turned_as_viewers_turn_it(kind: tuple[str, str], orientation: int) -> None:
    data = turned(*kind, orientation)
    with Image.open(io.BytesIO(data)) as picture:
        expected = ImageOps.exif_transpose(picture)
        grey = np.asarray(expected if expected.mode == "I;16" else expected.convert("L"))
    [header] = headers(data)
    assert (header.height, header.width) == grey.shape
    assert (header.orientation, header.turned) == (orientation, orientation != 1)
    [found] = read(data)
    np.testing.assert_allclose(found, grey, atol=1)
    with images.open_image(data) as image:
        [stored] = images.read_stored(image)
    assert stored.values.shape[:2] == grey.shape
    assert stored.alpha is None or stored.alpha.shape == grey.shape


@given(st.integers(1, 8))
def test_turning_moves_every_pixel_to_one_place(orientation: int) -> None:
    pixels = np.arange(24).reshape(4, 6)
    assert sorted(upright(pixels, orientation).ravel()) == list(range(24))


@given(st.binary(max_size=60))
def test_any_exif_bytes_yield_an_orientation(exif: bytes) -> None:
    assert orientation_of(exif) in range(1, 9)
    assert orientation_of(b"II*\0" + exif) in range(1, 9)


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_turns_nothing(value: int) -> None:
    assert orientation_of(stated(value).tobytes()[6:]) == 1
