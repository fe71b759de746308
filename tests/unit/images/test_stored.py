"""Labels are read as they are stored: no palette, no inversion, transparency kept separate."""

import io
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded, noise, plain_tiff, planes
from numpy.typing import NDArray
from PIL import Image
from tiffs import tiff

from cytomask import images
from cytomask.errors import ImageTooLarge, NoSuchPage, UnreadableImage


def stored(data: bytes, wanted: list[int] | None = None) -> list[images.StoredPage]:
    with images.open_image(data, "labels") as image:
        return list(images.read_stored(image, wanted))


def only(data: bytes) -> images.StoredPage:
    [page] = stored(data)
    return page


def png(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


@given(st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_a_palettes_indices_are_labels(most: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, most + 1, (12, 9), np.uint8)
    picture = Image.fromarray(labels)
    picture.putpalette(np.random.default_rng(seed).integers(0, 256, 768, np.uint8).tobytes())
    assert picture.mode == "P"
    page = only(png(picture))
    assert np.array_equal(page.values, labels)
    assert page.alpha is None


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_labels_of_few_bits_are_not_scaled(bits: int) -> None:
    labels = noise(12, 9) & (2**bits - 1)
    picture = Image.fromarray(labels)
    picture.putpalette(bytes(range(256)) * 3)
    assert np.array_equal(only(png(picture, bits=bits)).values, labels)
    if bits == 1:
        assert np.array_equal(only(encoded(labels > 0, "PNG")).values, labels)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32"])
def test_0_stays_0_in_black_and_in_white(photometric: str, dtype: str) -> None:
    labels = (planes() % 3).astype(dtype)
    found = only(plain_tiff(labels, photometric=photometric)).values
    assert found.dtype.kind != "b"
    assert np.array_equal(found, labels)


def test_transparency_is_read_separately() -> None:
    rgba, grey = noise(12, 9, 4), noise(12, 9, 2)
    for page in (only(encoded(rgba, "PNG")), only(plain_tiff(rgba, photometric="rgb"))):
        assert np.array_equal(page.values, rgba[..., :3])
        assert page.alpha is not None
        assert np.array_equal(page.alpha, rgba[..., 3])
    options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [2]}
    both = np.asarray(grey)
    for page in (only(bytes(imagecodecs.png_encode(grey))), only(plain_tiff(both, **options))):
        assert np.array_equal(page.values, grey[..., 0])
        assert page.alpha is not None
        assert np.array_equal(page.alpha, grey[..., 1])


def test_a_transparent_entry_of_a_palette_is_transparency() -> None:
    labels = noise(12, 9) % 3
    picture = Image.fromarray(labels)
    picture.putpalette(bytes(768))
    page = only(png(picture, transparency=0))
    assert np.array_equal(page.values, labels)
    assert page.alpha is not None
    assert np.array_equal(page.alpha > 0, labels > 0)


def test_colours_of_16_bits_are_stored_whole() -> None:
    rgb: NDArray[np.uint16] = noise(12, 9, 3).astype(np.uint16) * 257
    assert np.array_equal(only(bytes(imagecodecs.png_encode(rgb))).values, rgb)


def test_channels_are_kept() -> None:
    stack = planes(3)
    data = tiff(stack, writer={"ome": True}, metadata={"axes": "CYX"})
    assert np.array_equal(only(data).values, np.moveaxis(stack, 0, -1))


def test_page_limits_also_hold_for_labels() -> None:
    data = plain_tiff(*planes(2))
    assert np.array_equal(stored(data, [1])[0].values, planes(2)[1])
    with pytest.raises(NoSuchPage):
        stored(data, [2])
    with images.open_image(data) as image, pytest.raises(ImageTooLarge):
        images.read_stored(image, limits=images.Limits(page_pixels=10))


@pytest.mark.parametrize("data", [encoded(noise(9, 11), "PNG"), encoded(noise(9, 11, 3), "PNG")])
def test_a_png_of_labels_with_a_wrong_checksum_is_refused(data: bytes) -> None:
    place = data.index(b"IDAT") + 4
    length = int.from_bytes(data[place - 8 : place - 4], "big")
    damaged = bytearray(data)
    damaged[place + length] ^= 1
    assert stored(data)
    with pytest.raises(UnreadableImage, match="a checksum in it is wrong"):
        stored(bytes(damaged))
