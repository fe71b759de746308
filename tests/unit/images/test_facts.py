"""The channel and time of a page, from files that tifffile writes."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from cytomask import images
from cytomask.exports import encode_ome
from cytomask.images import PlaneFacts
from cytomask.lengths import PixelSize


def facts_of(index: int, channel: int | None, shape: tuple[int, ...], **options: Any) -> PlaneFacts:
    """Write a TIFF and read a page's channel and time."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros(shape, np.uint8), photometric="minisblack", **options)
    with images.open_image(stream.getvalue(), "a.tif") as image:
        return image.facts(index, channel)


OME: dict[str, Any] = {
    "axes": "TCYX",
    "AcquisitionDate": "2026-11-25T13:20:11",
    "Channel": {"Name": ["Phase & co", "GFP"]},
    "Plane": {"DeltaT": [0.0, 0.0, 14400.0, 14400.0], "DeltaTUnit": ["s"] * 4},
}


@pytest.mark.parametrize(("channel", "name"), [(0, "Phase & co"), (1, "GFP")])
def test_ome_names_the_channel_and_dates_the_frame(channel: int, name: str) -> None:
    found = facts_of(1, channel, (2, 2, 8, 9), ome=True, metadata=OME)
    assert found == PlaneFacts(name, "2026-11-25T13:20:11", 14400.0)


def test_imagejs_frames_have_their_interval() -> None:
    told = {"axes": "TYX", "finterval": 600.0, "tunit": "sec"}
    assert facts_of(2, None, (3, 8, 9), imagej=True, metadata=told) == PlaneFacts(elapsed_s=1200.0)


def test_a_tiffs_own_date_is_the_only_pages() -> None:
    found = facts_of(0, None, (8, 9), datetime="2026:11:25 13:20:11", metadata=None)
    assert found == PlaneFacts(date="2026-11-25T13:20:11")


def test_a_date_of_many_numbers_gives_no_time() -> None:
    date = 306, "I", 2000, (0,) * 2000, True
    assert facts_of(0, None, (8, 9), extratags=[date], metadata=None) == PlaneFacts()


def test_a_plain_tiff_gives_no_time() -> None:
    assert facts_of(0, None, (8, 9), metadata=None) == PlaneFacts()


def test_the_metadata_of_an_ome_mask_is_read_back() -> None:
    told = PlaneFacts("Phase", "2026-11-25T13:20:11", 60.0)
    mask = encode_ome(np.eye(4, dtype=np.bool_), facts=told)
    with images.open_image(mask, "a.mask.ome.tif") as image:
        assert image.facts(0, None) == told


XML = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SIZES = 'Type="uint8" SizeX="9" SizeY="8" SizeZ="1" SizeC="1"'


def image_xml(
    number: int, *, times: int = 1, size: str = "", channel: str = "", date: str = "", inside: str = ""
) -> str:
    """Describe an image, with double quotes."""
    dated = f"<AcquisitionDate>{date}</AcquisitionDate>" if date else ""
    return (
        f'<Image ID="Image:{number}">{dated}<Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" {SIZES} '
        f'SizeT="{times}" {size}><Channel ID="Channel:{number}:0" SamplesPerPixel="1" Name="{channel}"/>'
        f"{inside}</Pixels></Image>"
    )


def opened(
    *described: str, pages: int, directories: int | None = None
) -> tuple[list[PixelSize | None], list[PlaneFacts]]:
    """Read the pixel sizes and facts of a TIFF with this description and a directory for each page."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{XML}">{"".join(described)}</OME>'
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for number in range(directories or pages):
            told = text.encode() if number == 0 else None
            writer.write(np.full((8, 9), number, np.uint8), description=told, metadata=None, contiguous=False)
    with images.open_image(stream.getvalue(), "a.ome.tif") as image:
        assert len(image.pages) == pages
        sizes = [page.pixel_size for page in image.pages]
        return sizes, [image.facts(page, None) for page in range(pages)]


HALF, ONE = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5"', 'PhysicalSizeX="1" PhysicalSizeY="1"'
DATE, LATER = "2026-11-25T13:20:11", "2026-11-26T13:20:11"


@pytest.mark.parametrize("places", [("", ""), ('<TiffData IFD="0"/>', '<TiffData IFD="1"/>')])
def test_each_image_of_a_file_has_its_own_size_channel_and_date(places: tuple[str, str]) -> None:
    sizes, facts = opened(
        image_xml(0, size=HALF, channel="chan1", date=DATE, inside=places[0]),
        image_xml(1, size=ONE, channel="chan2", date=LATER, inside=places[1]),
        pages=2,
    )
    assert sizes == [PixelSize(0.5, 0.5), PixelSize(1.0, 1.0)]
    assert facts == [PlaneFacts("chan1", DATE), PlaneFacts("chan2", LATER)]


def test_images_whose_directories_are_swapped_keep_their_sizes_and_times() -> None:
    def blocks(*directories: int) -> str:
        return "".join(
            f'<TiffData FirstT="{time}" IFD="{at}"/><Plane TheC="0" TheT="{time}" TheZ="0" DeltaT="{at}" '
            'DeltaTUnit="min"/>'
            for time, at in enumerate(directories)
        )

    sizes, facts = opened(
        image_xml(0, times=2, size=HALF, inside=blocks(3, 1)),
        image_xml(1, times=2, inside=blocks(0, 2)),
        pages=4,
    )
    assert sizes == [PixelSize(0.5, 0.5)] * 2 + [None] * 2
    assert [each.elapsed_s for each in facts] == [180, 60, 0, 120]


def test_a_directory_that_two_images_claim_has_no_size() -> None:
    place = '<TiffData IFD="0"/>'
    sizes, facts = opened(
        image_xml(0, size=HALF, channel="a", inside=place),
        image_xml(1, size=ONE, channel="b", inside=place),
        image_xml(2, size=ONE, channel="c", inside='<TiffData IFD="1"/>'),
        pages=3,
        directories=2,
    )
    assert (sizes, facts) == ([None, None, PixelSize(1, 1)], [PlaneFacts(), PlaneFacts(), PlaneFacts("c")])


def test_an_image_without_a_size_does_not_get_its_neighbours() -> None:
    assert opened(image_xml(0), image_xml(1, size=ONE), pages=2)[0] == [None, PixelSize(1, 1)]


@pytest.mark.parametrize(
    ("size", "width"),
    [
        ("PhysicalSizeX='0.65' PhysicalSizeY='0.65'", 0.65),
        ('PhysicalSizeX="0.65" PhysicalSizeXUnit="&#xB5;m" PhysicalSizeY="0.65"', 0.65),
        ('PhysicalSizeX="650" PhysicalSizeXUnit="n&#109;" PhysicalSizeY="0.65"', 0.65),
    ],
)
def test_sizes_are_read_as_xml_writes_them(size: str, width: float) -> None:
    [found], _ = opened(image_xml(0, size=size), pages=1)
    assert found == PixelSize(width, 0.65)


def test_comments_and_other_schemas_tell_nothing() -> None:
    other = f'<Pixels xmlns="urn:mine" {ONE}/><Plane xmlns="urn:mine" TheT="0" DeltaT="7"/>'
    sizes, facts = opened(f"<!-- <Pixels {ONE}> -->{other}", image_xml(0, inside=other), pages=1)
    assert (sizes, facts) == ([None], [PlaneFacts()])


def test_a_name_keeps_what_xml_escapes() -> None:
    assert opened(image_xml(0, channel="a &lt;b&gt; &#x3B2; &amp;amp;"), pages=1)[1] == [
        PlaneFacts("a <b> β &amp;")
    ]


@pytest.mark.parametrize("delta", ["nan", "inf", "-1", "1e300", "x"])
def test_an_impossible_delta_is_ignored(delta: str) -> None:
    plane = f'<Plane TheC="0" TheT="0" TheZ="0" DeltaT="{delta}"/>'
    assert opened(image_xml(0, inside=plane), pages=1)[1] == [PlaneFacts()]
