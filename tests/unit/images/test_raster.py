"""PNG and JPEG files are read or refused."""

import io
import tracemalloc
from typing import Any

import imagecodecs
import numpy as np
import pytest
from image_files import (
    HEIGHT,
    WIDTH,
    encoded,
    headers,
    luma_of,
    noise,
    planes,
    png_of_header,
    read,
    read_one,
    read_or_refuse,
    same,
)
from PIL import Image

from cytomask import images
from cytomask.errors import (
    ImageTooLarge,
    UnreadableImage,
)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_grey_png_is_read_unchanged(dtype: str) -> None:
    stored = (planes().astype(np.uint32) * np.iinfo(dtype).max // 255).astype(dtype)
    data = encoded(stored, "PNG")
    assert headers(data) == [images.PageHeader(HEIGHT, WIDTH, 1, False, dtype, stored.nbytes)]
    found = read_one(data)
    assert found.dtype == dtype
    assert np.array_equal(found, stored)


def test_a_png_of_one_bit_reads_as_black_and_white() -> None:
    bits = planes() > 127
    assert np.array_equal(read_one(encoded(bits, "PNG")), bits * 255)


def test_transparency_of_a_png_is_left_out() -> None:
    rgba = noise(HEIGHT, WIDTH, 4)
    np.testing.assert_allclose(read_one(encoded(rgba, "PNG")), luma_of(rgba[..., :3]), atol=1e-3)
    stream = io.BytesIO()
    Image.merge("LA", [Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])]).save(stream, "PNG")
    assert np.array_equal(read_one(stream.getvalue()), rgba[..., 0])


def test_rgb_and_palette_pngs_become_luma() -> None:
    rgb = noise(HEIGHT, WIDTH, 3) // 64 * 64
    np.testing.assert_allclose(read_one(encoded(rgb, "PNG")), luma_of(rgb), atol=1e-3)
    palette = Image.fromarray(rgb).quantize(64)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    np.testing.assert_allclose(
        read_one(stream.getvalue()), luma_of(np.asarray(palette.convert("RGB"))), atol=1e-3
    )


def test_16_bit_colours_in_a_png_are_not_cut_to_8() -> None:
    for samples in (2, 3, 4):
        stored = (noise(HEIGHT, WIDTH, samples).astype(np.uint16) << 8) + 7
        found = read_one(bytes(imagecodecs.png_encode(stored)))
        expected = stored[..., 0] if samples == 2 else luma_of(stored[..., :3])
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_read_to_a_few_grey_levels(mode: str) -> None:
    flat = np.full((HEIGHT, WIDTH, 3), (180, 100, 60), np.uint8)
    found = read_one(encoded(flat, "JPEG", mode, quality=95))
    assert found.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(found, luma_of(flat), atol=3)


@pytest.mark.parametrize(
    "data",
    [encoded(pixels, "PNG") for pixels in (noise(9, 11), noise(9, 11, 3), noise(9, 11).astype(np.uint16))],
    ids=["grey", "rgb", "16-bit"],
)
def test_a_truncated_or_changed_png_is_refused_or_read_whole(data: bytes) -> None:
    whole = read_one(data)
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]):
            found = read_or_refuse(damaged)
            assert found is None or same(found, whole[None]), f"byte {at} of {len(data)}"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused_or_read_whole(progressive: bool) -> None:
    data = encoded(noise(16, 16), "JPEG", progressive=progressive)
    whole = read_one(data)
    for end in range(len(data)):
        found = read_or_refuse(data[:end])
        assert found is None or same(found, whole[None]), f"cut to {end} of {len(data)} bytes"


def test_a_png_that_unpacks_to_gigabytes_is_refused_by_its_header() -> None:
    tracemalloc.start()
    try:
        for side in (9_000, 100_000):
            with pytest.raises(ImageTooLarge):
                read(png_of_header(side, side))
        assert tracemalloc.get_traced_memory()[1] < images.MEBI
    finally:
        tracemalloc.stop()


def test_a_png_whose_pixels_are_missing_is_refused() -> None:
    with pytest.raises(UnreadableImage):
        read(png_of_header(20, 20))


def test_an_animated_png_is_refused() -> None:
    frames = [Image.fromarray(plane) for plane in planes(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImage, match="3 frames"):
        read(stream.getvalue())


def test_pillow_running_out_of_memory_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("out of memory error when reading image file")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        read(encoded(planes(), "PNG"))


def test_a_jpeg_ls_is_refused_by_name() -> None:
    with pytest.raises(UnreadableImage, match="is a JPEG-LS, which is not read; save it as TIFF or PNG"):
        read(bytes(imagecodecs.jpegls_encode(noise(8, 16))))
