"""What is read out of image files, what is refused and how, and what the masks are written as."""

import io
import logging
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tiffs import tiff

from cytomask import images
from cytomask.errors import (
    AmbiguousAxes,
    AmbiguousChannels,
    EmptyImage,
    ImageTooLarge,
    NonFinitePixels,
    NoSuchPage,
    RejectedInput,
    UnreadableImage,
)

LIVECELL = Path(__file__).parents[3] / "shared" / "data" / "livecell"
HEIGHT, WIDTH = 48, 64


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape or (HEIGHT, WIDTH), np.uint8)


def planes(*lengths: int) -> NDArray[np.uint8]:
    """Planes that all differ: (*lengths, HEIGHT, WIDTH) uint8."""
    return noise(*lengths, HEIGHT, WIDTH)


def plain_tiff(*arrays: NDArray[Any], **options: Any) -> bytes:
    """A TIFF without any description, as most programs write them."""
    return tiff(*arrays, metadata=None, **options)


def tiff_of_writes(*writes: tuple[NDArray[Any], dict[str, Any]], **writer: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **writer) as file:
        for array, options in writes:
            file.write(array, **options)
    return stream.getvalue()


def bare_tiff(height: int, width: int, **tags: int) -> bytes:
    """A little-endian TIFF of one directory of nine short facts and no pixels to speak of."""
    values = {
        256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: height * width
    }  # fmt: skip
    values |= {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, value % 2**32) for tag, value in sorted(values.items())]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def last_pointer(data: bytes) -> int:
    """Where the last directory of a little-endian TIFF says that there is no next one."""
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
    source: bytes | Path, wanted: list[int] | None = None, channel: int | None = None
) -> list[NDArray[Any]]:
    with images.open_image(source, None if isinstance(source, Path) else "field.tif") as image:
        return [page.pixels for page in images.read_pages(image, wanted, channel)]


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
    """Whether pages are just those of (pages, H, W)."""
    return len(found) == len(expected) and all(
        np.array_equal(page, plane) for page, plane in zip(found, expected, strict=True)
    )


def luma_of(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """(H, W, 3) to (H, W), as ITU-R BT.601 has it."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    grey: NDArray[np.float64] = 0.299 * red + 0.587 * green + 0.114 * blue
    return grey


def mask_of_a_disc(height: int = 40, width: int = 50, radius: int = 12) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:height, :width]
    disc: NDArray[np.bool_] = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2
    return disc


def decoded(png: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
def test_grey_values_of_any_real_type_come_back_as_they_are(dtype: str) -> None:
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


def test_a_constant_page_reads_as_it_is() -> None:
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


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    for name in ("page.png", "page.ndpi", "page"):
        path = tmp_path / name
        path.write_bytes(plain_tiff(planes()))
        assert np.array_equal(read_one(path), planes())


def test_values_of_which_0_is_white_are_turned_round() -> None:
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
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_rgb_becomes_luma(dtype: str, planarconfig: str) -> None:
    rgb = noise(HEIGHT, WIDTH, 3).astype(dtype)
    stored = np.moveaxis(rgb, -1, 0) if planarconfig == "separate" else rgb
    found = read_one(plain_tiff(stored, photometric="rgb", planarconfig=planarconfig))
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
def test_a_channel_that_is_not_there_is_refused(channel: int) -> None:
    data = plain_tiff(noise(HEIGHT, WIDTH, 5), photometric="minisblack", planarconfig="contig")
    with pytest.raises(AmbiguousChannels, match=f"no channel {channel}"):
        read(data, channel=channel)


def test_luma_and_chroma_that_nothing_decodes_are_three_channels() -> None:
    ycbcr = noise(HEIGHT, WIDTH, 3)
    with pytest.raises(AmbiguousChannels):
        read(plain_tiff(ycbcr, photometric="ycbcr", subsampling=(1, 1)))


def test_an_array_with_unnamed_channels_last_is_refused() -> None:
    with pytest.raises(AmbiguousAxes, match="channels written last"):
        read(tiff(noise(HEIGHT, WIDTH, 5)))


@pytest.mark.parametrize("data", [tiff(noise(HEIGHT, WIDTH, 5), metadata={"axes": "YXC"}),
                                  tiff(noise(5, HEIGHT, WIDTH), metadata={"axes": "CYX"})],
                         ids=["last", "first"])  # fmt: skip
def test_channels_may_be_named_first_or_last(data: bytes) -> None:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        stored = file.asarray()
    last = stored.shape[-1] == 5
    [header] = headers(data)
    assert header == images.PageHeader(HEIGHT, WIDTH, 5, False, "uint8", header.decoded_bytes)
    assert np.array_equal(read_one(data, channel=2), stored[..., 2] if last else stored[2])


def test_pages_written_one_at_a_time_are_all_read() -> None:
    stack = planes(4)
    writes = [(plane, {"contiguous": False, "metadata": {"time": at}}) for at, plane in enumerate(stack)]
    assert same(read(tiff_of_writes(*writes)), stack)
    assert same(read(plain_tiff(*stack)), stack)
    assert same(
        read(tiff_of_writes((stack[0], {}), *((plane, {"metadata": None}) for plane in stack[1:]))), stack
    )


def test_a_stack_of_unnamed_axes_counts_its_planes_in_order() -> None:
    grey: dict[str, Any] = {"photometric": "minisblack"}  # tifffile would write a stack of 3 or 4 as colours
    assert same(read(tiff(planes(4), **grey)), planes(4))
    assert same(read(tiff(planes(2, 5), **grey)), planes(2, 5).reshape(10, HEIGHT, WIDTH))


def test_an_rgb_stack_becomes_luma_page_by_page() -> None:
    stack = noise(3, HEIGHT, WIDTH, 3)
    for data in (tiff(stack, photometric="rgb"), tiff(stack, photometric="rgb", truncate=True)):
        found = read(data)
        assert len(found) == 3
        np.testing.assert_allclose(found[2], luma_of(stack[2]), atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"truncate": True}, {"compression": "lzw"}], ids=str)
def test_an_imagej_hyperstack_is_read_page_by_page(options: dict[str, Any]) -> None:
    stack = planes(2, 3, 4)
    data = tiff(stack, writer={"imagej": True}, metadata={"axes": "TZCYX"}, **options)
    assert len(headers(data)) == 6
    with pytest.raises(AmbiguousChannels):
        read(data)
    assert same(read(data, channel=3), stack[:, :, 3].reshape(6, HEIGHT, WIDTH))
    assert np.array_equal(read(data, [4], channel=1)[0], stack[1, 1, 1])


def test_a_big_endian_imagej_stack_under_one_directory_reads_in_native_order() -> None:
    stack = planes(3).astype(np.uint16) * 200
    data = tiff(stack, writer={"imagej": True, "byteorder": ">"}, metadata={"axes": "TYX"}, truncate=True)
    found = read(data)
    assert same(found, stack)
    assert found[0].dtype == np.dtype("=u2")


@pytest.mark.parametrize(
    ("axes", "lengths", "pages", "channels"),
    [("YX", (), 1, 1), ("TYX", (3,), 3, 1), ("ZYX", (3,), 3, 1), ("CYX", (3,), 1, 3),
     ("TCYX", (2, 3), 2, 3), ("CTYX", (3, 2), 2, 3), ("TZYX", (2, 3), 6, 1), ("ZCYX", (3, 2), 3, 2)],
)  # fmt: skip
def test_ome_axes_tell_pages_from_channels(
    axes: str, lengths: tuple[int, ...], pages: int, channels: int
) -> None:
    stack = planes(*lengths)
    data = tiff(stack, writer={"ome": True}, metadata={"axes": axes})
    channel = channels - 1
    expected = stack
    if "C" in axes:
        expected = np.take(stack, channel, axis=axes.index("C"))
    assert [page.channels for page in headers(data)] == [channels] * pages
    assert same(read(data, channel=channel), expected.reshape(pages, HEIGHT, WIDTH))


def test_ome_rgb_becomes_luma() -> None:
    rgb = noise(HEIGHT, WIDTH, 3)
    data = tiff(rgb, writer={"ome": True}, photometric="rgb", metadata={"axes": "YXS"})
    np.testing.assert_allclose(read_one(data), luma_of(rgb), atol=1e-3)


def test_a_volume_in_one_directory_counts_its_depth_as_pages() -> None:
    volume = noise(16, HEIGHT, WIDTH)
    data = tiff(volume, volumetric=True, tile=(16, 16, 16), compression="zlib", metadata={"axes": "ZYX"})
    assert same(read(data), volume)


@pytest.mark.parametrize("writer", [{}, {"ome": True}], ids=str)
def test_levels_of_a_pyramid_are_no_pages(writer: dict[str, Any]) -> None:
    page = planes()
    level = {"subfiletype": 1}
    data = tiff_of_writes((page, {"subifds": 2}), (page[::2, ::2], level), (page[::4, ::4], level), **writer)
    assert same(read(data), page[None])


def test_a_thumbnail_is_no_page() -> None:
    page = planes()
    thumbnail: dict[str, Any] = {"subfiletype": 1, "metadata": None}
    for writes in (
        [(page, {"metadata": None}), (page[::2, ::2], thumbnail)],
        [(page[::3, ::3], thumbnail), (page, {"metadata": None})],
    ):
        assert same(read(tiff_of_writes(*writes)), page[None])


def test_pages_of_different_sizes_all_count_in_the_order_of_the_file() -> None:
    page = planes()
    pages = [page, page[::2, ::2], page[1:], page[:, ::2], page[::-1], page[::4, ::4]]
    for data in (plain_tiff(*pages), tiff(*pages)):
        found = read(data)
        assert [one.shape for one in found] == [one.shape for one in pages]
        assert all(np.array_equal(one, other) for one, other in zip(found, pages, strict=True))


def test_pages_may_be_asked_for_in_any_order() -> None:
    stack = planes(5)
    assert same(read(plain_tiff(*stack), [4, 0, 4]), stack[[4, 0, 4]])


@pytest.mark.parametrize("page", [3, -1])
def test_a_page_out_of_range_is_refused_before_any_is_read(page: int) -> None:
    with (
        images.open_image(plain_tiff(*planes(3))) as image,
        pytest.raises(NoSuchPage, match=f"no page {page}: it has 3"),
    ):
        images.read_pages(image, [0, page])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_grey_png_comes_back_as_it_is(dtype: str) -> None:
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


def test_16_bit_colours_in_a_png_are_refused_rather_than_cut_to_8() -> None:
    for samples in (2, 3, 4):
        data = imagecodecs.png_encode(noise(HEIGHT, WIDTH, samples).astype(np.uint16) * 257)
        with pytest.raises(UnreadableImage, match="16-bit"):
            read(bytes(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_read_to_a_few_grey_levels(mode: str) -> None:
    flat = np.full((HEIGHT, WIDTH, 3), (180, 100, 60), np.uint8)
    found = read_one(encoded(flat, "JPEG", mode, quality=95))
    assert found.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(found, luma_of(flat), atol=3)


def test_a_file_of_no_bytes_is_empty(tmp_path: Path) -> None:
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
def test_a_tiff_cut_anywhere_is_refused_or_whole(data: bytes) -> None:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        stack = np.stack(
            [page for series in file.series for page in series.asarray().reshape(-1, *series.shape[-2:])]
        )
    assert same(read(data), stack)
    for end in range(len(data)):
        found = read_or_refuse(data[:end])
        assert found is None or same(found, stack), f"cut to {end} of {len(data)} bytes"


def test_one_wrong_byte_in_a_tiff_is_never_more_than_a_refusal() -> None:
    whole = plain_tiff(*noise(2, 6, 8), compression="lzw")
    for at in range(len(whole)):
        for wrong in (0x00, 0xFF):
            read_or_refuse(whole[:at] + bytes([wrong]) + whole[at + 1 :])


@pytest.mark.parametrize(
    "data",
    [encoded(pixels, "PNG") for pixels in (noise(9, 11), noise(9, 11, 3), noise(9, 11).astype(np.uint16))],
    ids=["grey", "rgb", "16-bit"],
)
def test_a_png_cut_or_changed_anywhere_is_refused_or_whole(data: bytes) -> None:
    whole = read_one(data)
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]):
            found = read_or_refuse(damaged)
            assert found is None or same(found, whole[None]), f"byte {at} of {len(data)}"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_is_refused_or_whole(progressive: bool) -> None:
    data = encoded(noise(16, 16), "JPEG", progressive=progressive)
    whole = read_one(data)
    for end in range(len(data)):
        found = read_or_refuse(data[:end])
        assert found is None or same(found, whole[None]), f"cut to {end} of {len(data)} bytes"


def test_a_chain_of_pages_that_ends_in_nothing_is_refused() -> None:
    data = plain_tiff(*planes(3))
    assert len(read(data)) == 3
    with pytest.raises(UnreadableImage, match="page 3 is said to be at byte 4000000000"):
        read(with_last_pointer(data, 4_000_000_000))


@pytest.mark.parametrize("count", [1, 3, 150])
def test_a_chain_of_pages_that_runs_in_a_circle_is_refused(count: int) -> None:
    data = plain_tiff(*noise(count, 2, 2))
    first = struct.unpack_from("<I", data, 4)[0]
    with pytest.raises(UnreadableImage, match="no new page"):
        read(with_last_pointer(data, first))


def test_more_pages_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LIMITS", images.Limits(file_pages=4))
    assert len(read(plain_tiff(*noise(4, 2, 2)))) == 4
    for data in (
        plain_tiff(*noise(5, 2, 2)),
        tiff(noise(5, 2, 20), truncate=True),
    ):
        with pytest.raises(ImageTooLarge, match="more than 4 pages"):
            read(data)


def test_a_strip_or_a_tile_left_out_is_refused_rather_than_read_as_black() -> None:
    data = bytearray(plain_tiff(noise(32, 32), tile=(16, 16)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        counts = file.pages.first.tags["TileByteCounts"]
        assert counts.count == 4
        data[counts.valueoffset : counts.valueoffset + counts.count * 2] = bytes(8)
    with pytest.raises(UnreadableImage, match="pixels are missing"):
        read(bytes(data))


def test_fewer_strips_than_rows_need_are_refused() -> None:
    assert read_one(bare_tiff(4, 2)).shape == (4, 2)
    with pytest.raises(UnreadableImage, match="pixels are missing"):
        read(bare_tiff(4, 2, tag278=2, tag279=4))


def test_a_huge_page_is_refused_by_its_header_alone() -> None:
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


def test_a_mask_of_the_longest_side_is_written() -> None:
    mask = np.zeros((1, 1_000_000), np.bool_)
    mask[0, ::3] = True
    with Image.open(io.BytesIO(images.encode_mask(mask))) as written:
        assert written.size == (1_000_000, 1)


def test_less_memory_means_smaller_pages_and_the_refusal_says_so() -> None:
    data = plain_tiff(np.zeros((3000, 3000), np.uint8))
    assert images.Limits.within(3008) == images.LIMITS
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
def test_all_that_is_decoded_at_a_time_counts(data: bytes, decoded: int) -> None:
    needed = decoded + max(decoded, 20 * 2000)
    with images.open_image(data, "wide.tif") as image:
        assert image.pages[0].decoded_bytes == decoded
        assert list(images.read_pages(image, [0], 0, images.Limits(page_bytes=needed)))
        with pytest.raises(ImageTooLarge, match=r"page 0 of wide\.tif takes .* MiB to be decoded alone"):
            images.read_pages(image, [0], 0, images.Limits(page_bytes=needed - 1))


def test_a_small_page_beside_a_huge_one_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LIMITS", images.Limits(page_pixels=1000))
    small = noise(20, 20)
    data = plain_tiff(planes(), small)
    assert same(read(data, [1]), small[None])
    with pytest.raises(ImageTooLarge, match="page 0"):
        read(data)


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


def test_the_pages_of_a_job_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LIMITS", images.Limits(job_pixels=3 * HEIGHT * WIDTH))
    data = plain_tiff(*planes(4))
    assert len(read(data, [0, 1, 2])) == 3
    with pytest.raises(ImageTooLarge, match="4 pages asked for"):
        read(data)


def test_a_file_of_too_many_bytes_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LIMITS", images.Limits(file_bytes=1000))
    with pytest.raises(ImageTooLarge, match="MiB"):
        read(plain_tiff(planes()))


@pytest.mark.parametrize(("height", "width"), [(0, 8), (8, 0), (0, 0)])
def test_a_page_without_pixels_is_empty(height: int, width: int) -> None:
    with pytest.raises(EmptyImage):
        read(bare_tiff(height, width))


def test_a_tiff_without_pages_is_empty() -> None:
    with pytest.raises(EmptyImage, match="without pages"):
        read(b"II*\0" + bytes(8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_pixels_that_are_no_number_are_counted_and_refused(bad: float, dtype: str) -> None:
    stored = planes().astype(dtype)
    stored[3, 4:6] = bad
    with pytest.raises(NonFinitePixels, match="2 pixels"):
        read(plain_tiff(stored))


def test_nan_in_a_colour_is_refused() -> None:
    rgb = noise(HEIGHT, WIDTH, 3).astype(np.float32)
    rgb[0, 0, 2] = np.nan
    with pytest.raises(NonFinitePixels, match="1 pixels"):
        read(plain_tiff(rgb, photometric="rgb"))


def test_complex_numbers_are_no_grey_values() -> None:
    with pytest.raises(UnreadableImage, match="no grey values"):
        read(plain_tiff(planes().astype(np.complex64)))


def test_a_sample_format_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="13 bits"):
        read(bare_tiff(2, 2, tag258=13, tag339=3))


def test_an_imagej_description_that_counts_fewer_pages_than_there_are_is_refused() -> None:
    description = "ImageJ=1.53t\nimages=2\nframes=2\n"
    stack = planes(3)
    writes = [(plane, {"metadata": None, "contiguous": False, "compression": "lzw"}) for plane in stack]
    writes[0][1]["description"] = description
    with pytest.raises(UnreadableImage, match="3 TIFF pages"):
        read(tiff_of_writes(*writes))


def test_an_ome_description_that_cannot_be_followed_is_refused() -> None:
    writes: list[tuple[NDArray[Any], dict[str, Any]]] = [
        (plane, {"metadata": None, "contiguous": False}) for plane in planes(2)
    ]
    writes[0][1]["description"] = "<OME><broken</OME>"
    with pytest.raises(UnreadableImage, match="OME or ImageJ description"):
        read(tiff_of_writes(*writes))


def test_one_file_of_an_ome_set_is_refused_without_opening_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, planes())
    plane = '<TiffData FirstT="{0}" IFD="0" PlaneCount="1"><UUID FileName="{1}">urn:{0}</UUID></TiffData>'
    description = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:0"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{WIDTH}" SizeY="{HEIGHT}" '
        f'SizeC="1" SizeZ="1" SizeT="2">{plane.format(0, "one.tif")}{plane.format(1, other)}</Pixels>'
        "</Image></OME>"
    )
    one = tmp_path / "one.tif"
    one.write_bytes(plain_tiff(planes(), description=description))
    monkeypatch.chdir(tmp_path)
    for source in (one, one.read_bytes()):
        with pytest.raises(UnreadableImage, match="one of several files"):
            read(source)


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


@pytest.mark.parametrize(
    "magic", [images.PNG_MAGIC, images.JPEG_MAGIC, b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0"]
)
def test_garbage_after_the_first_bytes_is_refused(magic: bytes) -> None:
    with pytest.raises(UnreadableImage):
        read(magic + noise(500).tobytes())


def test_an_animated_png_is_refused() -> None:
    frames = [Image.fromarray(plane) for plane in planes(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImage, match="3 frames"):
        read(stream.getvalue())


@pytest.mark.parametrize("fault", [MemoryError(), KeyboardInterrupt()], ids=repr)
def test_what_is_not_the_files_fault_is_no_refusal(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(tifffile, "TiffFile", fail)
    with pytest.raises(type(fault)):
        read(plain_tiff(planes()))


def test_want_of_memory_in_pillow_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("out of memory error when reading image file")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        read(encoded(planes(), "PNG"))


def test_a_refused_file_is_not_complained_of_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    data = tiff(planes(3), writer={"imagej": True}, metadata={"axes": "TYX"}, truncate=True)
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_or_refuse(data[:-10]) is None
        assert read_or_refuse(png_of_header(10_000, 10_000)) is None
    assert caplog.records == []


@pytest.mark.skipif(not LIVECELL.is_dir(), reason=f"the LIVECell images are not at {LIVECELL}")
def test_livecells_own_tiffs_read_as_520_by_704_pixels_of_8_bits() -> None:
    paths = sorted(LIVECELL.glob("images/*.tif"))[:5]
    assert len(paths) == 5
    for path in paths:
        page = images.read_page(path)
        assert page.pixels.shape == (520, 704)
        assert page.pixels.dtype == page.dtype == "uint8"
        assert np.ptp(page.pixels) > 50


def test_a_mask_is_written_as_0_and_255_in_one_channel() -> None:
    mask = mask_of_a_disc()
    image = Image.open(io.BytesIO(images.encode_mask(mask)))
    assert (image.format, image.mode) == ("PNG", "L")
    assert np.array_equal(np.asarray(image), np.where(mask, 255, 0))


def test_a_probability_is_written_in_16_bits_to_the_nearest_level() -> None:
    probability = np.linspace(0, 1, 300 * 40, dtype=np.float32).reshape(300, 40)  # H, W
    png = images.encode_probability(probability)
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "I;16")
    assert np.array_equal(np.asarray(image), np.round(probability * np.float32(65535)))
    assert decoded(images.encode_probability(np.array([[0, 0.5, 1]], np.float32))).tolist() == [
        [0, 32768, 65535]
    ]


def test_an_overlay_is_grey_outside_tinted_inside_and_outlined_between() -> None:
    page = np.full((40, 50), 100, np.uint8)
    page[0, :25], page[0, 25:] = 0, 255
    mask = mask_of_a_disc()
    drawn = decoded(images.encode_overlay(page, mask))
    assert drawn.shape == (40, 50, 3)
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[0, 49].tolist() == [255, 255, 255]
    assert drawn[5, 5].tolist() == [100, 100, 100]
    red, green, blue = drawn[20, 25].tolist()
    assert 60 < blue < 100 < green < red < 140
    outlined = (drawn == images.OUTLINE).all(axis=-1)
    assert outlined[20, [12, 13, 37, 38]].all()
    assert not outlined[20, [11, 14, 25, 36, 39]].any()


def test_the_edge_of_the_page_is_no_outline() -> None:
    everything = decoded(images.encode_overlay(planes(), np.ones((HEIGHT, WIDTH), bool)))
    assert not (everything == images.OUTLINE).all(axis=-1).any()


def test_a_cell_of_one_pixel_is_outlined() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10, 20] = True
    drawn = decoded(images.encode_overlay(np.zeros((HEIGHT, WIDTH), np.uint8), mask))
    outlined = (drawn == images.OUTLINE).all(axis=-1)
    assert np.argwhere(outlined).tolist() == [[9, 20], [10, 19], [10, 20], [10, 21], [11, 20]]


def test_an_overlay_is_stretched_between_its_percentiles() -> None:
    page = np.arange(10_000, dtype=np.float64).reshape(100, 100) * 3 - 500  # H, W
    page[0, 0], page[99, 99] = -1e9, 1e9
    grey = decoded(images.encode_overlay(page, np.zeros((100, 100), bool)))[..., 0].ravel()
    assert grey[:50].max() == 0
    assert grey[9950:].min() == 255
    assert abs(int(grey[5000]) - 127) <= 1
    assert (np.diff(grey.astype(int)) >= 0).all()


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint16", "int64", "float16", "float32", "float64"]
)
def test_an_overlay_takes_pages_of_any_real_type(dtype: str) -> None:
    page = (planes() > 127).astype(dtype)
    drawn = decoded(images.encode_overlay(page, np.zeros((HEIGHT, WIDTH), bool)))
    assert np.array_equal(drawn[..., 1], np.where(page, 255, 0))


def test_an_overlay_of_a_constant_page_is_dark() -> None:
    page = np.full((HEIGHT, WIDTH), 4000, np.uint16)
    assert decoded(images.encode_overlay(page, np.zeros((HEIGHT, WIDTH), bool))).max() == 0


def test_bands_of_rows_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    page, mask = noise(100, 40), noise(100, 40, seed=1) > 200
    probability = (page / np.float32(255)).astype(np.float32)
    encoders: list[Callable[[], bytes]] = [
        lambda: images.encode_overlay(page, mask),
        lambda: images.encode_probability(probability),
    ]
    whole = [decoded(encode()) for encode in encoders]
    monkeypatch.setattr(images, "ROWS_AT_ONCE", 7)
    for expected, encode in zip(whole, encoders, strict=True):
        assert np.array_equal(decoded(encode()), expected)


def test_the_percentiles_of_a_large_page_are_taken_from_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SAMPLED_PIXELS", 1000)
    page = np.tile(np.arange(200, dtype=np.uint8), (200, 1))  # H, W
    grey = decoded(images.encode_overlay(page, np.zeros((200, 200), bool)))[0, :, 0]
    assert grey[0] == 0
    assert grey[199] == 255
    assert abs(int(grey[100]) - 128) <= 4
