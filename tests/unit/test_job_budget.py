"""A job's cost follows from its headers; a job that costs too much is refused with the figure."""

import io
import struct
import tracemalloc
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from cytomask import budget, images
from cytomask.errors import ImageTooLarge, RejectedInput, UnreadableImage
from cytomask.images.work import Work
from cytomask.model.preprocess import plan_tiles


def tiff(height: int, width: int, pages: int = 1, **options: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for _ in range(pages):
            file.write(np.zeros((height, width), np.uint8), metadata=None, contiguous=False, **options)
    return stream.getvalue()


def cost(data: bytes, tiles: int = 1, **options: Any) -> float:
    with images.open_image(data, "field.tif") as image:
        return budget.require(image, range(len(image.pages)), None, tiles=tiles, **options)


def shared(blob: bytes, compression: int, *, pages: int = 1, side: int = 16, segments: int = 1) -> bytes:
    """Make a TIFF of pages whose strips all share the same bytes."""
    data = bytearray(b"II*\0\0\0\0\0" + blob + bytes(len(blob) % 2))
    lists = len(data)
    data += struct.pack(f"<{segments}I", *[8] * segments) + struct.pack(
        f"<{segments}I", *[len(blob)] * segments
    )
    places = (lists, lists + 4 * segments) if segments > 1 else (8, len(blob))
    pointer = 4
    for _ in range(pages):
        struct.pack_into("<I", data, pointer, len(data))
        facts = {256: side, 257: side * segments, 258: 8, 259: compression, 262: 1, 277: 1, 278: side}
        tags = [(tag, 4, 1, value) for tag, value in facts.items()]
        tags += [(273, 4, segments, places[0]), (279, 4, segments, places[1])]
        data += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
        pointer = len(data)
        data += bytes(4)
    return bytes(data)


PACKED: dict[str, tuple[int, Any]] = {
    "JPEG 2000": (34712, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="jp2")),
    "bare JPEG 2000": (34712, lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k")),
    "JPEG": (7, imagecodecs.jpeg8_encode),
    "PNG": (34933, imagecodecs.png_encode),
    "WebP": (
        50001,
        lambda pixels: imagecodecs.webp_encode(np.repeat(pixels[..., None], 3, -1), lossless=True),
    ),
    "lossy WebP": (
        50001,
        lambda pixels: imagecodecs.webp_encode(np.repeat(pixels[..., None], 3, -1), level=50),
    ),
}


@pytest.mark.parametrize("packer", PACKED)
@pytest.mark.parametrize("side", [64, 2000])
def test_a_strip_that_unpacks_to_more_than_its_place_is_refused_by_its_own_header(
    packer: str, side: int
) -> None:
    compression, pack = PACKED[packer]
    blob = bytes(pack(np.zeros((side, side), np.uint8)))
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge, match=f"unpacks to {side} x {side}"):
            cost(shared(blob, compression))
        assert tracemalloc.get_traced_memory()[1] < images.MEBI
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packer", PACKED)
def test_the_budget_counts_a_strip_that_fills_its_place(packer: str) -> None:
    compression, pack = PACKED[packer]
    assert cost(shared(bytes(pack(np.zeros((16, 16), np.uint8))), compression)) < 1


@pytest.mark.parametrize(("pages", "segments"), [(1, 3), (3, 1), (300, 40)])
def test_pages_and_strips_that_share_their_bytes_are_refused(pages: int, segments: int) -> None:
    blob = bytes(imagecodecs.zlib_encode(bytes(256))) + bytes(100_000)
    with pytest.raises(ImageTooLarge, match="lie over each other"):
        cost(shared(blob, 8, pages=pages, segments=segments))


def test_a_page_asked_for_again_costs_again() -> None:
    data = tiff(512, 512)
    with images.open_image(data) as image:
        once, thrice = (budget.decoding_seconds(images.work_of(image, [0] * times, None)) for times in (1, 3))
    assert thrice == pytest.approx(3 * once)


def test_a_job_that_takes_too_long_is_refused_with_the_figure() -> None:
    data = tiff(100, 100)
    with pytest.raises(
        ImageTooLarge, match=r"field\.tif would take about 1600 s .* the limit is 100 s; ask for fewer"
    ):
        cost(data, tiles=100_000)
    assert cost(data, tiles=100) < budget.WAITING.seconds < cost(data, tiles=1000)
    with pytest.raises(ImageTooLarge, match="POST /jobs"):
        cost(data, tiles=1000, budget=budget.WAITING)


def test_ten_thousand_tiny_pages_cost_what_their_outputs_cost() -> None:
    with pytest.raises(ImageTooLarge, match="would take about"):
        cost(tiff(2, 2, pages=4000), tiles=4000)


def test_all_the_pixels_of_a_full_job_fit_the_queue() -> None:
    """256 megapixels in 4 pages, LZW, each with a mask."""
    side = 8000
    tiles = 4 * plan_tiles(side, side).count
    work = [Work("LZW", side**2, side**2, side**2, 8000)] * 4
    pixels = 4 * side**2 * (budget.PIXEL_SECONDS["page"] + budget.PIXEL_SECONDS["mask"])
    assert budget.decoding_seconds(work) + tiles * budget.TILE_SECONDS + pixels < budget.QUEUE.seconds


@given(
    st.sampled_from([*budget.RATES, "NONE", "unheard of"]),
    *[st.integers(0, 2**40)] * 3,
    st.integers(1, 10**6),
)
def test_more_work_never_costs_less(
    codec: str, packed: int, decoded: int, passed: int, segments: int
) -> None:
    less = budget.decoding_seconds([Work(codec, packed, decoded, passed, segments)])
    more = budget.decoding_seconds([Work(codec, packed + 1, decoded + 1, passed + 1, segments + 1)])
    assert 0 < less < more


def segment(mark: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, mark, len(content) + 2) + content


def jpeg2000(tiles: int = 1, layers: int = 1) -> bytes:
    """The start of a codestream of 16 x 16 pixels, cut into rows of tiles."""
    size = struct.pack(">HIIIIIIIIH", 0, 16, 16, 0, 0, 16, 16, 0, 0, 1) + b"\x07\1\1"
    if tiles > 1:
        size = struct.pack(">HIIIIIIIIH", 0, 16, 16 * tiles, 0, 0, 16, 16, 0, 0, 1) + b"\x07\1\1"
    style = struct.pack(">BBHB", 0, 0, layers, 0) + bytes(5)
    return (
        b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size
        + b"\xff\x52" + struct.pack(">H", len(style) + 2) + style
    )  # fmt: skip


@pytest.mark.parametrize(("tiles", "layers"), [(2000, 1), (1, 60_000)])
def test_a_jpeg_2000_of_very_many_tiles_or_layers_is_refused(tiles: int, layers: int) -> None:
    with pytest.raises(ImageTooLarge, match=f"{tiles} tiles in {layers} layers"):
        cost(shared(jpeg2000(tiles, layers), 34712))


# Flags, order, layers, transform of colours; levels, sides of blocks, mode, transform; sizes of precincts.
ORDINARY = b"\0\0\0\1\0" + b"\0\4\4\0\1"
TINY = b"\1\0\0\1\0" + b"\0\4\4\0\1" + b"\0"  # precincts of 1 x 1 pixel
WIDE = struct.pack(">HIIIIIIIIH", 0, 2000, 2000, 0, 0, 2000, 2000, 0, 0, 1) + b"\7\1\1"
PART = segment(0x90, struct.pack(">HIBB", 0, 0, 0, 1))


@pytest.mark.parametrize(
    "headers",
    [
        segment(0x52, TINY) + PART,
        segment(0x64, b"\0\1" + segment(0x52, ORDINARY)) + segment(0x52, TINY) + PART,
        segment(0x52, ORDINARY) + segment(0x53, b"\0" + TINY[:1] + TINY[5:]) + PART,
        segment(0x52, ORDINARY) + PART + segment(0x52, TINY),
    ],
    ids=["main header", "behind a comment", "of one sample", "of one tile"],
)
def test_a_jpeg_2000_of_very_many_precincts_is_refused(headers: bytes) -> None:
    codestream = b"\xff\x4f" + segment(0x51, WIDE) + headers + b"\xff\x93"
    with pytest.raises(ImageTooLarge, match="4,000,000 code blocks, the limit is 400,000"):
        cost(shared(codestream, 34712, side=2000))


def test_a_mark_that_a_decoder_would_search_for_others_is_refused() -> None:
    hidden = segment(0x20, segment(0x52, TINY)) + segment(0x52, ORDINARY) + PART + b"\xff\x93"
    with pytest.raises(UnreadableImage, match="header is damaged"):
        cost(shared(b"\xff\x4f" + segment(0x51, WIDE) + hidden, 34712, side=2000))


def test_an_ordinary_jpeg_2000_has_a_block_for_every_64_pixels_of_its_sides() -> None:
    pixels = np.zeros((2048, 2048), np.uint8)
    data = shared(bytes(imagecodecs.jpeg2k_encode(pixels, level=0)), 34712, side=2048)
    with images.open_image(data) as image:
        [work] = images.work_of(image, [0], None)
    assert 1024 <= work.segments < 1100


@pytest.mark.parametrize("shift", [b"", segment(0x5E, b"\0\0\x14")], ids=["quantization", "region"])
def test_the_bit_planes_of_a_jpeg_2000_cost_time(shift: bytes) -> None:
    """An attacker's code blocks of 30 planes took 220 ns a pixel, and two bytes each."""
    start = b"\xff\x4f" + segment(0x51, WIDE) + segment(0x52, ORDINARY)
    exponent = 10 if shift else 30
    found = start + segment(0x5C, bytes([0, exponent << 3])) + shift + PART
    with images.open_image(shared(found + b"\xff\x93", 34712, side=2000)) as image:
        assert budget.decoding_seconds(images.work_of(image, [0], None)) > 220e-9 * 2000**2


def in_strips(blob: bytes, compression: int, count: int, **options: Any) -> bytes:
    """Make a TIFF of strips of 16 x 16 pixels, each with its own copy of the bytes."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        blobs = iter([blob] * count)
        file.write(
            blobs, shape=(16 * count, 16), dtype=np.uint8, compression=compression, rowsperstrip=16,
            metadata=None, **options,
        )  # fmt: skip
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


SQUARE = np.zeros((16, 16), np.uint8)


def test_the_marks_and_chunks_of_all_strips_are_counted_together() -> None:
    jpeg, png = bytes(imagecodecs.jpeg8_encode(SQUARE)), bytes(imagecodecs.png_encode(SQUARE))
    comments = jpeg[:2] + b"\xff\xfe\0\2" * 15_000 + jpeg[2:]
    chunks = png[:33] + png_chunk(b"aaAa") * 5_000 + png[33:]
    for blob, compression in ((comments, 7), (chunks, 34933)):
        assert cost(in_strips(blob, compression, 3)) > 3 * 5_000 * budget.SEGMENT_SECONDS
        with pytest.raises(ImageTooLarge, match="more than 1,000,000 marks, chunks or code blocks together"):
            cost(in_strips(blob, compression, 210))


def test_the_marks_of_all_pages_are_counted_together() -> None:
    jpeg = bytes(imagecodecs.jpeg8_encode(SQUARE))
    blob = jpeg[:2] + b"\xff\xfe\0\2" * 15_000 + jpeg[2:]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for _ in range(70):
            file.write(iter([blob]), shape=(16, 16), dtype=np.uint8, compression=7, metadata=None)
    with pytest.raises(ImageTooLarge, match="more than 1,000,000 marks, chunks or code blocks together"):
        cost(stream.getvalue())


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_png_strip_whose_notes_would_be_unpacked_is_refused(kind: bytes) -> None:
    png = bytes(imagecodecs.png_encode(SQUARE))
    noted = png[:33] + png_chunk(kind, b"key\0\0" + zlib.compress(bytes(1000))) + png[33:]
    with pytest.raises(UnreadableImage, match="PNG with packed text or a colour profile"):
        cost(in_strips(noted, 34933, 1))


def test_tables_of_a_jpeg_cost_again_for_each_strip_and_may_not_be_long() -> None:
    jpeg = bytes(imagecodecs.jpeg8_encode(SQUARE))
    with images.open_image(in_strips(jpeg, 7, 20, jpegtables=bytes(60_000))) as image:
        [work] = images.work_of(image, [0], None)
    assert work.packed_bytes > 20 * 60_000
    with pytest.raises(ImageTooLarge, match="has 70000 bytes of JPEG tables, the limit is 65536"):
        cost(in_strips(jpeg, 7, 1, jpegtables=bytes(70_000)))


@given(st.sampled_from([7, 34712, 34933, 50001]), st.binary(min_size=1, max_size=200))
def test_any_bytes_in_a_strip_s_place_are_reckoned_with_or_refused(compression: int, blob: bytes) -> None:
    starts = {
        7: b"\xff\xd8\xff",
        34712: b"\xff\x4f\xff\x51",
        34933: images.PNG_MAGIC,
        50001: b"RIFF1234WEBPVP8",
    }
    for data in (blob, starts[compression] + blob):
        try:
            cost(shared(data, compression))
        except RejectedInput as error:
            assert str(error)


def test_a_codec_that_does_not_tell_its_size_is_refused_by_name() -> None:
    with pytest.raises(UnreadableImage, match=r"packed as LERC \(34887\)"):
        cost(shared(bytes(imagecodecs.lerc_encode(np.zeros((16, 16), np.uint8))), 34887))


def test_a_jpeg_of_many_scans_costs_each_of_them() -> None:
    stream = io.BytesIO()
    from PIL import Image

    Image.fromarray(np.zeros((256, 256), np.uint8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    scan = data[data.find(b"\xff\xda") : -2]
    with images.open_image(data) as few, images.open_image(data[:-2] + scan * 20 + data[-2:]) as many:
        [one], [other] = images.work_of(few, [0], None), images.work_of(many, [0], None)
    assert other.passed_bytes > 20 * one.decoded_bytes
    with pytest.raises(ImageTooLarge, match="more than 500 scans"):
        cost(data[:-2] + scan * 500 + data[-2:])


def test_all_channels_of_a_page_are_reckoned_with_where_none_is_named() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((3, 64, 64), np.uint8), ome=True, metadata={"axes": "CYX"})
    with images.open_image(stream.getvalue()) as image:
        assert len(images.work_of(image, [0], 1)) == 1
        assert len(images.work_of(image, [0], None)) == 3
