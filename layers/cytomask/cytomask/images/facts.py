"""Read which channel and moment a page shows, for the OME-TIFF of its mask."""

import tifffile

from cytomask.acquisition import MOST_HOURS, iso_date
from cytomask.images.ome_xml import Picture, Place
from cytomask.images.pages import PlaneFacts
from cytomask.stack_times import page_times

DATE_TIME = 306  # TIFF's tag
LONGEST_DATE = 100  # bytes: TIFF's own form takes 20


def facts_of_ome(picture: Picture, place: Place) -> PlaneFacts:
    """Read what an OME description tells of a plane.

    Args:
        picture: the stack of the plane.
        place: where the plane lies along C, T and Z.
    """
    channel, time, _ = place
    step = picture.increment if picture.lengths["T"] > 1 else None
    elapsed = picture.deltas.get(place, None if step is None else time * step)
    return PlaneFacts(
        picture.names[channel] if channel < len(picture.names) else None,
        iso_date(picture.date) if picture.date else None,
        elapsed if elapsed is not None and 0 <= elapsed < MOST_HOURS * 3600 else None,
    )


def facts_of_tiff(description: str, tiff_date: str | None, index: int, pages: int) -> PlaneFacts:
    """Read what a TIFF without an OME description tells of a page.

    Args:
        description: of the file's first page: ImageJ's lines, or anything else.
        tiff_date: TIFF's `DateTime`, from `date_of`.
        index: of the page, counted from 0.
        pages: of the file.
    """
    time = page_times(description, tiff_date, pages)[index].time
    if isinstance(time, str):
        return PlaneFacts(date=time)
    return PlaneFacts(elapsed_s=None if time is None else time * 3600)


def date_of(page: tifffile.TiffPage) -> str | None:
    """Read TIFF's `DateTime`; None for anything but a short text, which is not even read."""
    tag = page.tags.get(DATE_TIME)
    if tag is None or tag.dtype != tifffile.DATATYPE.ASCII or tag.count > LONGEST_DATE:
        return None
    try:
        return str(tag.value)
    except Exception:  # a damaged tag is no reason to refuse the file
        return None
