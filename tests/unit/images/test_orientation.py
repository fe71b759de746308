"""EXIF turns PNG and JPEG files upright."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import headers, noise, read
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

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


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("profile", ["exif", "APP1"])
def test_exif_in_the_older_form_of_pngs_counts_unless_eXIf_is_there(packed: bool, profile: str) -> None:
    digits = (stated(6).tobytes()).hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    info = PngInfo()
    info.add_text(f"Raw profile type {profile}", f"\n{profile}\n{len(digits) // 2:8}\n{lines}\n", zip=packed)
    info.add_text("Raw profile type exif", "\nexif\n 3\nnot hexadecimal")  # only the first one counts
    pixels = noise(8, 16)
    for exif, expected in ((None, np.rot90(pixels, -1)), (stated(1), pixels)):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", pnginfo=info, **({"exif": exif} if exif else {}))
        np.testing.assert_array_equal(read(stream.getvalue())[0], expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "number"), [(1, "B"), (3, "H"), (4, "I")])
def test_an_orientation_may_be_any_whole_number(order: str, kind: int, number: str) -> None:
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    value = struct.pack(f"{order}{number}", 6).ljust(4, b"\0")
    assert orientation_of(magic + struct.pack(f"{order}IHHHI", 8, 1, TAG, kind, 1) + value) == 6


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
