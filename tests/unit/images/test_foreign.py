"""Metadata of other programs cause no refusal and do not mislead the reader."""

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import HEIGHT, WIDTH, encoded, headers, noise, planes, png_chunk, read, same
from PIL import Image, PngImagePlugin
from tiffs import tiff

from cytomask.errors import UnreadableImage

PAGE = planes()
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
words = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=8)
numbers = st.integers(-(2**40), 2**40)


def described(text: str, pages: int = 1) -> bytes:
    stack = PAGE[None].repeat(pages, axis=0)
    return tiff(*stack, metadata=None, description=text.encode())


def ome(pixels: str = "", annotation: str = "", after: str = "") -> str:
    size = f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="1" SizeZ="1" SizeT="1"'
    return (
        '<?xml version="1.0"?>'
        f'<OME xmlns="{OME}"><Image ID="I:0"><Pixels ID="P:0" '
        f'DimensionOrder="XYZCT" Type="uint8" {size}>{pixels}<TiffData/></Pixels>'
        f"{after}</Image>{annotation}</OME>"
    )


@given(
    st.one_of(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        values.map(json.dumps),
        st.dictionaries(
            st.sampled_from(["shape", "axes", "truncated", "name"]) | st.text(max_size=5), values, max_size=4
        ).map(json.dumps),
        st.lists(numbers, max_size=4).map(lambda shape: json.dumps({"shape": shape})),
        st.lists(numbers, max_size=4).map(lambda shape: f"shape={tuple(shape)}"),
        st.tuples(words, words, words).map("<{0[0]}><{0[1]}>{0[2]}</{0[1]}></{0[0]}>".format),
        words.map(lambda word: f"<{word}><Pixels SizeC='x'/><Image/></{word}>\n<!-- HOME> -->"),
        words.map(lambda word: f"<{word}OME><Image><Pixels/></Image></{word}OME>"),
        st.sampled_from(
            ["Aperio ", "DeltaVision ", "<scn></scn>", "FluoView", "SIMS", "Philips", "<MetaData>"]
        ),
    )
)
def test_a_page_with_any_description_is_read(text: str) -> None:
    assert same(read(described(text)), PAGE[None])


@given(st.sampled_from(["Pixels", "TiffData", "Channel", "Image", "UUID", "BinaryOnly"]), words, numbers)
def test_foreign_elements_in_an_ome_description_are_ignored(kind: str, word: str, number: int) -> None:
    inside = f'<NumberOf{kind} Start="{number}" SizeC="{word}">{number}</NumberOf{kind}>'
    facts = f'xmlns:x="urn:{word}" SizeX="{number}" IFD="{number}" FirstZ="{number}"'
    foreign = f"<x:{kind} {facts}>{inside}</x:{kind}>"
    value = f"<XMLAnnotation><Value>{inside}{foreign}</Value></XMLAnnotation>"
    note = f"<StructuredAnnotations>{value}</StructuredAnnotations>"
    for text in (ome(annotation=note), ome(pixels=foreign), ome(after=foreign)):
        assert same(read(described(text)), PAGE[None])


def test_two_pages_with_a_foreign_description_are_two_pages() -> None:
    for text in (
        '{"shape": "round"}',
        "<HOME><Pixels/></HOME>",
        '{"exposure": [1, 2], "shape": [7]}',
        json.dumps({"shape": [5, HEIGHT, WIDTH], "stain": "none"}),
        "<OMERO><x/></OMERO>",
        "<OMEGA-scan v='1'/>",
        "<?xml version='1.0'?><OMExperiment/>",
        "<OME xmlns='urn:foreign'><Image><Pixels/></Image></OME>",
        "<!-- <OME --><notes/>",
        "note: see <OME-XML> in the companion file",
    ):
        assert len(read(described(text, 2))) == 2
        assert len(read(described(text, 1))) == 1


def test_an_ome_description_is_followed_however_its_xml_begins_and_ends() -> None:
    """Its two pages are the channels of one, which plain directories would not be."""
    size = f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="2" SizeZ="1" SizeT="1"'
    root = (
        f'<OME xmlns="{OME}"><Image ID="I:0"><Pixels DimensionOrder="XYCZT" {size}><TiffData/></Pixels>'
        "</Image></OME>"
    )
    declared = '<?xml version="1.0" encoding="{}"?>'
    for text in (
        root,
        declared.format("UTF-16") + root,
        declared.format("ISO-8859-1") + root,
        "<!DOCTYPE OME>" + root,
        '<!DOCTYPE OME SYSTEM "file:///etc/passwd">' + root,
        "<!-- made by a > b -->\n" + root + "<!-- saved by x -->\n",
    ):
        assert [header.channels for header in headers(described(text, 2))] == [2]


def test_an_ome_description_with_entities_is_refused() -> None:
    text = f'<!DOCTYPE OME [<!ENTITY e "x">]><OME xmlns="{OME}">&e;</OME>'
    with pytest.raises(UnreadableImage, match="declares entities"):
        read(described(text, 2))


def test_each_file_of_a_set_is_one_page() -> None:
    block = (
        '<TiffData FirstT="{0}" IFD="0" PlaneCount="1"><UUID FileName="t{0}.ome.tif">urn:uuid:{0}</UUID>'
        "</TiffData>"
    )
    size = f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="1" SizeZ="1" SizeT="3"'
    blocks = "".join(block.format(number) for number in range(3))
    for number in range(3):
        text = (
            f'<OME xmlns="{OME}" UUID="urn:uuid:{number}"><Image ID="I:0">'
            f'<Pixels DimensionOrder="XYZCT" {size}>{blocks}</Pixels></Image></OME>'
        )
        assert same(read(described(text)), PAGE[None])
    elsewhere = '<BinaryOnly MetadataFile="t0.ome.tif" UUID="urn:uuid:0"/>'
    binary = f'<OME xmlns="{OME}" UUID="urn:uuid:9">{elsewhere}</OME>'
    assert same(read(described(binary)), PAGE[None])


def test_the_channels_of_one_file_of_a_set_stay_channels() -> None:
    block = (
        '<TiffData FirstT="{t}" FirstC="{c}" IFD="{c}" PlaneCount="1">'
        '<UUID FileName="t{t}.tif">urn:{t}</UUID></TiffData>'
    )
    blocks = "".join(block.format(t=time, c=channel) for time in range(2) for channel in range(2))
    size = f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="2" SizeZ="1" SizeT="2"'
    text = (
        f'<OME xmlns="{OME}" UUID="urn:1"><Image ID="I:0"><Pixels DimensionOrder="XYZCT" {size}>'
        f"{blocks}</Pixels></Image></OME>"
    )
    stack = planes(2)
    data = tiff(*stack, metadata=None, description=text.encode())
    assert same(read(data, channel=1), stack[1:])


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt", b"tEXt", b"prVt"])
def test_large_texts_and_profiles_of_a_png_are_ignored(kind: bytes) -> None:
    packed = zlib.compress(bytes(8_000_000))
    content = b"key\0\0" + (b"\0\0\0" if kind == b"iTXt" else b"") + packed
    data = encoded(PAGE, "PNG")
    for end in (33, len(data) - 12):  # after the header, and before the end
        assert same(read(data[:end] + png_chunk(kind, content) + data[end:]), PAGE[None])


def test_a_broken_colour_profile_is_ignored() -> None:
    rgb = np.repeat(PAGE[..., None], 3, axis=-1)  # H, W, 3
    for kind in ("PNG", "JPEG"):
        expected = read(encoded(rgb, kind))
        assert same(read(encoded(rgb, kind, icc_profile=noise(300).tobytes())), np.stack(expected))


def test_the_first_picture_of_a_jpeg_with_previews_is_read() -> None:
    first, second = Image.fromarray(PAGE), Image.fromarray(PAGE[::2, ::2])
    stream = io.BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[second])
    assert same(read(stream.getvalue()), np.stack(read(encoded(PAGE, "JPEG"))))


@given(st.binary(max_size=40), st.integers(0xE1, 0xEF), st.integers(1, 5))
def test_foreign_segments_in_a_jpeg_are_ignored(content: bytes, mark: int, times: int) -> None:
    if mark == 0xEE:
        content = b"x" + content  # Adobe's says what the colours are
    data = encoded(PAGE, "JPEG")
    segment = struct.pack(">BBH", 0xFF, mark, len(content) + 2) + content
    filled = b"\xff" * times
    assert same(read(data[:2] + segment * times + filled + data[2:] + content), np.stack(read(data)))


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_jpeg_of_more_than_8_bits_is_read(bits: int, samples: int) -> None:
    from imagecodecs import jpeg8_encode

    grey = np.kron(noise(6, 8), np.ones((8, 8), np.uint16)).astype(np.uint16) << (bits - 8)
    stored = grey if samples == 1 else np.repeat(grey[..., None], 3, axis=-1)
    options: dict[str, Any] = {"lossless": True} if bits == 16 else {"level": 98}
    [found] = read(bytes(jpeg8_encode(stored, bitspersample=bits, **options)))
    np.testing.assert_allclose(found, grey, atol=0.5 if bits == 16 else 40)


@pytest.mark.parametrize("magic", [b"\0\x05\x16\x07", b"\0\x05\x16\0"])
def test_an_apple_double_file_is_refused_by_name(magic: bytes) -> None:
    with pytest.raises(UnreadableImage, match="macOS keeps notes"):
        read(magic + bytes(100))


def test_a_text_that_pillow_would_refuse_is_ignored() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("notes", "x" * 2_000_000, zip=True)
    assert same(read(encoded(PAGE, "PNG", pnginfo=info)), PAGE[None])
