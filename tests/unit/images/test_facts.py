"""The channel and time of a page, from files that tifffile writes."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from cytomask import images
from cytomask.exports import encode_ome
from cytomask.images import PlaneFacts


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
        again = image.facts(0, None)
    assert again.channel == "Phase"
    assert again.date == "2026-11-25T13:21:11"  # the moment of the page itself
