"""Grey values and colours of a TIFF, however they are stored."""

from typing import Any

import numpy as np
import pytest
from image_files import (
    HEIGHT,
    WIDTH,
    bare_tiff,
    encoded,
    headers,
    luma_of,
    noise,
    plain_tiff,
    planes,
    read,
    read_one,
    same,
)

from cytomask import images
from cytomask.errors import (
    AmbiguousChannels,
    UnreadableImage,
)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
def test_grey_values_of_any_real_type_are_unchanged(dtype: str) -> None:
    stored = (planes() // 3).astype(dtype)
    found = read_one(plain_tiff(stored))
    assert found.dtype == stored.dtype
    assert np.array_equal(found, stored)


def test_a_16_bit_copy_reads_as_the_same_grey_values_scaled() -> None:
    eight = planes()
    sixteen = eight.astype(np.uint16) * 257
    assert np.array_equal(read_one(plain_tiff(sixteen)), read_one(plain_tiff(eight)) * np.uint16(257))


def test_12_bits_in_16_are_not_scaled() -> None:
    twelve = planes().astype(np.uint16) * 16
    assert np.array_equal(read_one(plain_tiff(twelve)), twelve)


def test_12_packed_bits_read_as_12_in_16() -> None:
    twelve = planes().astype(np.uint16) * 16 + 5
    packed = plain_tiff(twelve, bitspersample=12)
    assert len(packed) < twelve.nbytes
    assert np.array_equal(read_one(packed), twelve)


def test_one_bit_reads_as_0_and_1() -> None:
    bits = planes() > 127
    found = read_one(plain_tiff(bits, photometric="minisblack"))
    assert found.dtype == np.uint8
    assert np.array_equal(found, bits)


def test_a_constant_page_is_read_unchanged() -> None:
    assert np.array_equal(
        read_one(plain_tiff(np.full((HEIGHT, WIDTH), 7, np.uint16))), np.full((HEIGHT, WIDTH), 7)
    )


def test_the_header_names_size_and_type_of_the_file() -> None:
    assert headers(plain_tiff(planes().astype(np.uint16))) == [
        images.PageHeader(HEIGHT, WIDTH, 1, colour=False, dtype="uint16", decoded_bytes=2 * HEIGHT * WIDTH)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": 2},
        {"compression": "lzw", "rowsperstrip": 7},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": 2},
        {"compression": "packbits"},
        {"compression": "zstd"},
        {"rowsperstrip": 5},
        {"tile": (16, 32)},
        {"tile": (32, 32), "compression": "zlib"},
    ],
    ids=str,
)
def test_a_page_reads_the_same_however_it_is_stored(options: dict[str, Any]) -> None:
    stored = planes().astype(np.uint16) * 3
    assert np.array_equal(read_one(plain_tiff(stored, **options)), stored)


@pytest.mark.parametrize(
    "writer", [{"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}]
)
def test_big_files_and_big_endian_ones_read_the_same(writer: dict[str, Any]) -> None:
    stack = planes(3).astype(np.uint16) * 200
    found = read(plain_tiff(*stack, writer=writer))
    assert same(found, stack)
    assert found[0].dtype == np.dtype("=u2")


def test_white_is_zero_values_are_inverted() -> None:
    stored = planes()
    assert np.array_equal(read_one(plain_tiff(stored, photometric="miniswhite")), 255 - stored)
    real = stored.astype(np.float32)
    assert np.array_equal(read_one(plain_tiff(real, photometric="miniswhite")), -real)
    twelve = stored.astype(np.uint16) * 16
    assert np.array_equal(
        read_one(plain_tiff(twelve, photometric="miniswhite", bitspersample=12)), 4095 - twelve
    )
    signed = (stored.astype(np.int16) - 128) * 256
    turned = read_one(plain_tiff(signed, photometric="miniswhite"))
    assert np.array_equal(turned.astype(np.int32), -1 - signed.astype(np.int32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_rgb_becomes_luma(dtype: str) -> None:
    rgb = noise(HEIGHT, WIDTH, 3).astype(dtype)
    found = read_one(plain_tiff(rgb, photometric="rgb"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, luma_of(rgb), rtol=1e-5, atol=1e-3)


def test_luma_weighs_red_green_and_blue_as_bt_601_does() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    found = read_one(plain_tiff(colours, photometric="rgb"))
    np.testing.assert_allclose(found, [[76.245, 149.685, 29.07, 255]], atol=1e-3)


def test_alpha_is_left_out() -> None:
    rgba = noise(HEIGHT, WIDTH, 4)
    found = read_one(plain_tiff(rgba, photometric="rgb", extrasamples=["unassalpha"]))
    np.testing.assert_allclose(found, luma_of(rgba[..., :3]), atol=1e-3)
    grey_and_alpha = noise(HEIGHT, WIDTH, 2)
    options = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    assert np.array_equal(read_one(plain_tiff(grey_and_alpha, **options)), grey_and_alpha[..., 0])


def test_a_palette_is_looked_up() -> None:
    colours = np.random.default_rng(1).integers(0, 65536, (3, 256), np.uint16)
    stored = planes()
    found = read_one(plain_tiff(stored, photometric="palette", colormap=colours))
    np.testing.assert_allclose(found, luma_of(np.moveaxis(colours[:, stored], 0, -1)), rtol=1e-5)


def test_a_jpeg_in_a_tiff_reads_as_luma() -> None:
    rgb = np.full((HEIGHT, WIDTH, 3), (200, 120, 40), np.uint8)
    found = read_one(plain_tiff(rgb, photometric="rgb", compression="jpeg"))
    np.testing.assert_allclose(found, luma_of(rgb), atol=2)
    ycbcr = np.full((HEIGHT, WIDTH, 3), (120, 110, 150), np.uint8)
    found = read_one(plain_tiff(ycbcr, photometric="ycbcr", compression="jpeg"))
    np.testing.assert_allclose(found, np.full((HEIGHT, WIDTH), 120), atol=2)


def test_a_named_channel_of_rgb_is_that_colour_alone() -> None:
    rgb = noise(HEIGHT, WIDTH, 3)
    for data in (plain_tiff(rgb, photometric="rgb"), encoded(rgb, "PNG")):
        assert np.array_equal(read_one(data, channel=1), rgb[..., 1])


def test_five_channels_are_refused_unless_one_is_named() -> None:
    five = noise(HEIGHT, WIDTH, 5)
    data = plain_tiff(five, photometric="minisblack", planarconfig="contig")
    with pytest.raises(AmbiguousChannels, match="5 channels; name the phase-contrast one"):
        read(data)
    assert np.array_equal(read_one(data, channel=3), five[..., 3])


@pytest.mark.parametrize("channel", [-1, 5])
def test_an_unknown_channel_is_refused(channel: int) -> None:
    data = plain_tiff(noise(HEIGHT, WIDTH, 5), photometric="minisblack", planarconfig="contig")
    with pytest.raises(AmbiguousChannels, match=f"no channel {channel}"):
        read(data, channel=channel)


def test_undecoded_luma_and_chroma_are_three_channels() -> None:
    ycbcr = noise(HEIGHT, WIDTH, 3)
    with pytest.raises(AmbiguousChannels):
        read(plain_tiff(ycbcr, photometric="ycbcr", subsampling=(1, 1)))


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="not grey values"):
        read(plain_tiff(planes().astype(np.complex64)))


def test_an_unknown_sample_format_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="13 bits"):
        read(bare_tiff(2, 2, tag258=13, tag339=3))
