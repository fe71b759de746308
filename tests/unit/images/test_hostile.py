"""Malicious and damaged image files are read or refused, in bounded memory.

Files that a search by random changes has found are kept here as plain tests.
"""

import gc
import io
import json
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pytest
import tifffile
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiffs import tiff

from cytomask import images
from cytomask.errors import ImageTooLarge, RejectedInput, UnreadableImage
from cytomask.images.ome_xml import is_ome

HEIGHT, WIDTH = 16, 20
# So small that any memory allocated on a file's claim alone stands out.
SMALL = images.Limits(page_pixels=10_000, page_bytes=400_000, job_pixels=40_000, file_pages=100)
MOST_BYTES = 8 * images.MEGA

NUMBERS = (0, 1, 2, 7, 8, 255, 256, 9_999, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def described(description: str, pages: int = 1) -> bytes:
    """Make a TIFF whose first page has this description."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for number, page in enumerate(noise(pages, HEIGHT, WIDTH)):
            text = None if number else description
            file.write(page, contiguous=False, metadata=None, description=text)
    return stream.getvalue()


def encoded(array: NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def ome(inside: str = "<TiffData/>", annotation: str = "", **pixels: int | str) -> str:
    """Make an OME description of one image, by default of this file's one page."""
    facts: dict[str, int | str] = {
        "DimensionOrder": "XYCZT",
        "Type": "uint8",
        "SizeX": WIDTH,
        "SizeY": HEIGHT,
    }
    facts |= {"SizeC": 1, "SizeZ": 1, "SizeT": 1} | pixels
    told = " ".join(f'{name}="{value}"' for name, value in facts.items())
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<OME xmlns="{schema}"><Image ID="I:0"><Pixels {told}>{inside}</Pixels></Image>{annotation}</OME>'


@contextmanager
def bounded_memory(most: int = MOST_BYTES) -> Iterator[None]:
    """Fail if Python or NumPy holds more memory than this at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def read(source: bytes, limits: images.Limits = images.LIMITS) -> list[NDArray[Any]]:
    with images.open_image(source, "field.tif", limits) as image:
        return [page.pixels for page in images.read_pages(image, limits=limits)]


class Attempt(NamedTuple):
    """What became of reading a file.

    Attributes:
        code: the code of the refusal; empty if the file was read.
        dimensions: the numbers of dimensions that its pages have; empty if it was refused.
        peak: the most bytes that Python and NumPy held.
    """

    code: str
    dimensions: set[int]
    peak: int


def attempt(source: bytes, limits: images.Limits = images.LIMITS, most: int = MOST_BYTES) -> Attempt:
    """Read a file; try three times if it takes too much memory, because other tests leave garbage behind."""
    for _ in range(3):
        code, dimensions = "", set[int]()
        tracemalloc.start()
        try:
            dimensions = {page.ndim for page in read(source, limits)}
        except RejectedInput as error:
            code = error.code
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        if peak < most:
            break
        gc.collect()
    return Attempt(code, dimensions, peak)


FILES = {
    "plain": tiff(*noise(2, 9, 20), metadata=None),
    "lzw": tiff(*noise(2, 9, 20), metadata=None, compression="lzw"),
    "deflate": tiff(*noise(2, 9, 20), metadata=None, compression="zlib", predictor=2, rowsperstrip=4),
    "zstd": tiff(noise(9, 20), metadata=None, compression="zstd"),
    "jpeg in tiff": tiff(noise(16, 16), metadata=None, compression="jpeg"),
    "lerc": tiff(noise(16, 16), metadata=None, compression="lerc"),
    "tiles": tiff(*noise(2, 16, 20), metadata=None, tile=(16, 16)),
    "bigtiff": tiff(*noise(2, 9, 20), metadata=None, writer={"bigtiff": True}),
    "big-endian": tiff(*noise(2, 9, 20), metadata=None, writer={"byteorder": ">"}),
    "shaped": tiff(noise(2, 9, 20)),
    "imagej": tiff(noise(2, 9, 20), writer={"imagej": True}, metadata={"axes": "TYX"}),
    "ome": tiff(noise(2, 9, 20), writer={"ome": True}, metadata={"axes": "TYX"}),
    "planes of colour": tiff(noise(3, 9, 20), metadata=None, photometric="rgb", planarconfig="separate"),
    "png": encoded(noise(9, 11), "PNG"),
    "jpeg": encoded(noise(16, 16), "JPEG"),
    "progressive": encoded(noise(16, 16, 3), "JPEG", progressive=True),
}

changes = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),  # where, as a share of the file
        st.sampled_from(["<B", "<H", ">H", "<I", ">I"]),
        st.sampled_from(NUMBERS) | st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=examples(25))
@pytest.mark.parametrize("kind", FILES)
@given(made=changes)
def test_a_changed_file_is_read_or_refused_in_bounded_memory(
    kind: str, made: list[tuple[float, str, int]]
) -> None:
    data = bytearray(FILES[kind])
    for share, form, number in made:
        size = struct.calcsize(form)
        at = int(share * (len(data) - size))
        struct.pack_into(form, data, at, number % 2 ** (8 * size))
    tried = attempt(bytes(data), SMALL)
    assert tried.code or tried.dimensions == {2}
    assert tried.peak < MOST_BYTES


@settings(max_examples=examples(150))
@given(
    tag=st.sampled_from(
        [256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339]
    ),
    kind=st.sampled_from([1, 3, 4, 13, 16]),
    count=st.sampled_from([0, 1, 2, *NUMBERS]),
    value=st.sampled_from(NUMBERS) | st.integers(0, 2**32 - 1),
)
def test_a_tiff_with_an_arbitrary_tag_value_is_read_or_refused_in_bounded_memory(
    tag: int, kind: int, count: int, value: int
) -> None:
    facts = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    entries = {each: (4, 1, number) for each, number in facts.items()} | {tag: (kind, count, value)}
    body = b"".join(struct.pack("<HHII", each, *entry) for each, entry in sorted(entries.items()))
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    tried = attempt(data, SMALL)
    assert tried.code or tried.dimensions == {2}
    assert tried.peak < MOST_BYTES


def test_an_ome_description_of_one_page_is_read() -> None:
    assert [page.shape for page in read(described(ome()))] == [(HEIGHT, WIDTH)]


@pytest.mark.parametrize("number", [10**5, 10**9, 10**12])
@pytest.mark.parametrize("fact", ["SizeT", "SizeZ", "SizeC"])
def test_an_ome_description_of_too_many_planes_is_refused_cheaply(fact: str, number: int) -> None:
    with bounded_memory(images.MEBI), pytest.raises(ImageTooLarge, match="more than 10000 planes"):
        pixels: dict[str, Any] = {fact: number}
        read(described(ome(**pixels)))


def test_a_billion_planes_of_one_page_are_refused_too() -> None:
    for claim in ('IFD="0" PlaneCount="1000000000"', 'NumPlanes="1000000000"'):
        with bounded_memory(images.MEBI), pytest.raises(ImageTooLarge):
            read(described(ome(f"<TiffData {claim}/>")))


def test_an_ome_description_of_pages_larger_than_the_file_has_is_refused() -> None:
    with bounded_memory(images.MEBI), pytest.raises(UnreadableImage, match="does not fit its pages"):
        read(described(ome(SizeX=10**12)))


@pytest.mark.parametrize("order", ["TCZYX", "XYTTT"])
def test_an_ome_description_of_another_order_of_axes_is_refused(order: str) -> None:
    with bounded_memory(images.MEBI), pytest.raises(UnreadableImage):
        read(described(ome(DimensionOrder=order, SizeT=9_000)))


@pytest.mark.parametrize("step", ["1", "0.000000001", "nan"])
def test_an_annotation_with_a_billion_labels_for_an_axis_is_ignored(
    step: str,
) -> None:
    along = f'<ModuloAlongT Type="lifetime" Start="0" End="1000000000" Step="{step}"/>'
    annotation = (
        '<StructuredAnnotations><XMLAnnotation ID="A:0" Namespace="openmicroscopy.org/modulo"><Value><Modulo>'
        f"{along}</Modulo></Value></XMLAnnotation></StructuredAnnotations>"
    )
    with bounded_memory(images.MEBI):
        assert len(read(described(ome(annotation=annotation)))) == 1


def test_a_page_named_a_hundred_thousand_times_is_refused_early() -> None:
    with pytest.raises(ImageTooLarge):
        read(described(ome('<TiffData IFD="0"/>' * 100_000)))


def test_xml_entities_are_not_expanded() -> None:
    grown = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    bomb = f'<!DOCTYPE OME [<!ENTITY e0 "0123456789">{grown}]>{ome("&e9;")}'
    tried = attempt(described(bomb), most=64 * images.MEBI)
    assert tried.code or tried.dimensions == {2}
    assert tried.peak < 64 * images.MEBI


@pytest.mark.parametrize("count", [10**6, 10**12])
def test_descriptions_of_imagej_and_our_own_are_bounded(count: int) -> None:
    for description in (
        f"ImageJ=1.53t\nimages={count}\nframes={count}\n",
        f"ImageJ=1.53t\nimages=1\nchannels={count}\nhyperstack=true\n",
        json.dumps({"shape": [count, HEIGHT, WIDTH], "truncated": True}),
    ):
        with bounded_memory(images.MEBI), pytest.raises(RejectedInput):
            read(described(description))


@pytest.mark.parametrize(
    "description",
    [
        "<!DOCTYPE " + "a" * 300_000,
        "<!DOCTYPE [" + "a" * 300_000,
        "<!DOCTYPE a>" * 30_000,
        "<!DOCTYPE a[>" * 30_000,
        "\n" * 300_000,
    ],
    ids=["no end", "bracket without end", "many", "many brackets", "blank"],
)
def test_a_doctype_takes_time_that_grows_with_its_length(description: str) -> None:
    started = time.process_time()
    assert not is_ome(description)
    assert time.process_time() - started < 2


def texts_at_the_start(*tags: tuple[int, bytes]) -> bytes:
    """Make a TIFF of one page whose texts begin at byte 8; its directory and pixels follow."""
    contents = b"".join(text for _, text in tags)
    facts = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: 256}
    entries, place = [(tag, 4, 1, value) for tag, value in facts.items()], 8
    for tag, text in tags:
        entries.append((tag, 2, len(text), place))
        place += len(text)
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return (
        b"II*\0" + struct.pack("<I", place) + contents + struct.pack("<H", len(entries)) + body + bytes(256)
    )


@pytest.mark.parametrize("before", [(), ((270, b"short\0"),)], ids=["first", "second"])
def test_a_long_description_is_refused_before_it_is_parsed(before: tuple[tuple[int, bytes], ...]) -> None:
    text = b'{"shape": [16, 16], "list": [' + b"[]," * 1_000_000 + b"[]]}\0"
    data = texts_at_the_start(*before, (270, text))
    with bounded_memory(30 * images.MEBI), pytest.raises(ImageTooLarge, match="description of 300"):
        read(data)


def test_the_lists_of_micro_manager_are_not_parsed() -> None:
    text = b'{"list": [' + b"[]," * 1_000_000 + b"[]]}"
    header = struct.pack("<IIII", 483_729, 2, 2_355_492, len(text))
    data = texts_at_the_start((51123, header + text))
    with bounded_memory():
        assert len(read(data)) == 1


def test_a_slide_scanners_claim_of_a_billion_planes_is_ignored() -> None:
    dimension = '<dimension r="0" ifd="0" c="1000000000" z="1000000000" sizeX="1" sizeY="1"/>'
    slide = f'<image><pixels sizeX="1" sizeY="1">{dimension}</pixels><view offsetX="0" offsetY="0"/></image>'
    collection = f'<collection sizeX="1" sizeY="1">{slide}</collection>'
    schema = "http://www.leica-microsystems.com/scn/2010/10/01"
    description = f'<?xml version="1.0"?><scn xmlns="{schema}">{collection}</scn>'
    with bounded_memory(images.MEBI):
        assert [page.shape for page in read(described(description))] == [(HEIGHT, WIDTH)]


def test_a_segment_without_a_size_is_refused() -> None:
    for packed in ("lerc", "jpegxl", "jpegxr"):
        with pytest.raises(UnreadableImage, match="save it with LZW or deflate"):
            read(tiff(noise(16, 16), metadata=None, compression=packed))


@pytest.mark.parametrize("packed", ["deflate", "zstd"])
def test_a_strip_larger_than_its_page_is_not_unpacked_whole(packed: str) -> None:
    zeros = bytes(64 * images.MEBI)
    number, strip = {
        "deflate": (8, imagecodecs.zlib_encode(zeros)),
        "zstd": (50_000, imagecodecs.zstd_encode(zeros)),
    }[packed]
    facts = {256: 16, 257: 16, 258: 8, 259: number, 262: 1, 273: 200, 277: 1, 278: 16, 279: len(strip)}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in facts.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(facts)) + body + bytes(4)
    tried = attempt(head.ljust(200, b"\0") + strip)
    assert tried.code or tried.dimensions == {2}
    assert tried.peak < MOST_BYTES


def test_a_pickle_is_refused() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    for data in (stream.getvalue(), b"\x80\x04\x95" + bytes(20)):
        with pytest.raises(UnreadableImage, match="is not a TIFF, PNG or JPEG"):
            read(data)
