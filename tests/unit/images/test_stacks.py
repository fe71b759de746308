"""Which planes of a TIFF are pages and which are channels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from image_files import (
    HEIGHT,
    WIDTH,
    headers,
    luma_of,
    noise,
    plain_tiff,
    planes,
    read,
    read_one,
    same,
    tiff_of_writes,
)
from numpy.typing import NDArray
from tiffs import tiff

from cytomask import images
from cytomask.errors import (
    AmbiguousAxes,
    AmbiguousChannels,
    NoSuchPage,
    UnreadableImage,
)


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
def test_levels_of_a_pyramid_are_not_pages(writer: dict[str, Any]) -> None:
    page = planes()
    level = {"subfiletype": 1}
    data = tiff_of_writes((page, {"subifds": 2}), (page[::2, ::2], level), (page[::4, ::4], level), **writer)
    assert same(read(data), page[None])


def test_a_thumbnail_is_not_a_page() -> None:
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


def test_pages_may_be_requested_in_any_order() -> None:
    stack = planes(5)
    assert same(read(plain_tiff(*stack), [4, 0, 4]), stack[[4, 0, 4]])


@pytest.mark.parametrize("page", [3, -1])
def test_a_page_out_of_range_is_refused_before_any_is_read(page: int) -> None:
    with (
        images.open_image(plain_tiff(*planes(3))) as image,
        pytest.raises(NoSuchPage, match=f"no page {page}: it has 3"),
    ):
        images.read_pages(image, [0, page])


def test_an_imagej_description_that_counts_too_few_pages_is_refused() -> None:
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
    with pytest.raises(UnreadableImage, match="do not fit what its description says"):
        read(tiff_of_writes(*writes))


def test_one_file_of_an_ome_set_is_read_alone_without_opening_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, 255 - planes())
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
        assert same(read(source), planes()[None])
