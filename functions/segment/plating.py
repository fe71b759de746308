"""Which plate an image belongs to, and what its end means for that plate."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import msgspec
from aws_lambda_powertools import Logger

from cytomask.acquisition import Acquisition, Pattern, check_plate, read_acquisition
from cytomask.addresses import S3Object, is_plate_map, parse_uri, plates_of_map
from cytomask.errors import ImageNotFound, ImageReplaced, InvalidPlateMap, InvalidRequest, RejectedInput
from cytomask.images import Limits
from cytomask.plate_counts import PlateCounts
from cytomask.plate_places import PLACE, acquired_at, columns_of, time_of
from cytomask.plate_rows import Plates, StoredMap
from cytomask.platemap import LARGEST_FILE, PlateMap, parse_plate_map
from cytomask.records import JobRow, Result
from cytomask.requests import SegmentRequest
from cytomask.stack_times import place_pages
from cytomask.storage import Storage
from cytomask.table import timestamp

from .pages import Source


class Plating:
    """The segment function's part in plates."""

    def __init__(
        self,
        plates: Plates,
        counts: PlateCounts,
        storage: Storage,
        pattern: Pattern | None,
        logger: Logger,
        clock: Callable[[], float],
    ) -> None:
        self._plates = plates
        self._counts = counts
        self._storage = storage
        self._pattern = pattern
        self._logger = logger
        self._clock = clock

    def note_place(self, result: Result, request: SegmentRequest, source: Source) -> None:
        """Note in a result where and when its image was taken, as request, name or metadata says.

        A job for probabilities alone takes no place: the web page asks for them while people look, and
        looking must not replace the plate's pages.
        """
        if set(request.parameters.outputs) == {"probability"}:
            return
        found = request.place.filled_from(read_acquisition(request.image.key, self._pattern))
        in_stack = any(page.page > 0 for page in result.pages)
        placed: list[Acquisition] = []
        if found.well is not None and (found.time is None or in_stack):
            placed = place_pages(found, source.times())
        if placed and in_stack:
            for page in result.pages:
                page.time = placed[page.page].time
        if placed:
            first = placed[result.pages[0].page if result.pages else 0]
            found = msgspec.structs.replace(first, frame=found.frame)
        for name in PLACE:
            setattr(result, name, getattr(found, name))
        result.placed_by = ", ".join(found.sources) or None

    def note_place_again(
        self, stored: Result, row: JobRow, request: SegmentRequest, source: Source
    ) -> Result:
        """Return a stored result with the place that a later request gives; itself if that changes nothing.

        What the request leaves out stays as result and row have it.
        """
        known = acquired_at(stored).filled_from(acquired_at(row))
        given = request.place.filled_from(known)
        if all(getattr(given, name) == getattr(known, name) for name in PLACE):
            return stored
        result = copy(stored)
        result.pages = [copy(page) for page in stored.pages]
        self.note_place(result, replace(request, place=given), source)
        return result

    def expect(self, result: Result, request: SegmentRequest) -> None:
        """Store the number of pages that a request expects on the plate of an image that ended before."""
        placed = columns_of(acquired_at(result))
        if placed is not None and request.expected_pages is not None:
            self._counts.expect(placed["plate"], request.expected_pages)

    def count(
        self, result: Result, request: SegmentRequest, row: JobRow | None, stored: Result | None
    ) -> None:
        """Count an image that is about to end on its plate, and announce the plate if that completes it.

        Args:
            result: its result.
            request: the request.
            row: the job's row as it was before this owner took it.
            stored: the result of an earlier owner. Row and result tell where the image may be counted.
        """
        placed = columns_of(acquired_at(result))
        earlier = {
            _spot(old): old for each in (row, stored) if each and (old := columns_of(acquired_at(each)))
        }
        if placed is not None:
            earlier.pop(_spot(placed), None)
        # First, so that an image that moves within its plate does not count twice for a moment.
        for old in earlier.values():
            self._counts.leave(
                result.job_id or "",
                old,
                pages=len(result.pages),
                times=_scans_of_stack(stored or result),
                cost_usd=result.estimated_cost_usd or 0.0,
            )
        if placed is None:
            return
        summary = self._counts.count(
            placed,
            pages=len(result.pages),
            times=_scans_of_stack(result),
            masked=result.status == "SUCCEEDED",
            cost_usd=result.estimated_cost_usd or 0.0,
            expected_pages=request.expected_pages,
        )
        if summary.complete and summary.completed_at is None:
            self._logger.info(
                "plate_complete", plate=summary.plate, pages=summary.pages, failed=summary.failed
            )

    def take_map(self, file: S3Object) -> None:
        """Keep an uploaded plate map, and the reason if it is unusable."""
        plate_map: PlateMap | None = None
        error = None
        try:
            found = self._storage.find(file)
            if found is None:
                raise ImageNotFound(f"{file.uri} was deleted since it was uploaded")
            content = self._storage.read_image(found, Limits(file_bytes=LARGEST_FILE))
            plate_map = parse_plate_map(content, file.key)
        except (ImageNotFound, ImageReplaced) as gone:
            self._logger.info("event_ignored", what=file.uri, reason=str(gone))
            return
        except RejectedInput as refused:
            error = str(refused)
            if not is_plate_map(file.key):
                self._logger.info("event_ignored", what=file.uri, reason=f"no plate map: {error}")
                return
            self._logger.warning("plate_map_rejected", plate_map=file.uri, error=error)
        stored = StoredMap(uri=file.uri, plate_map=plate_map, error=error)
        told = plate_map.plate if plate_map else None
        for plate in self._plates_of(file, told):
            self._keep_map(plate, stored)

    def _plates_of(self, file: S3Object, told: str | None) -> list[str]:
        """Return the plates that an uploaded map describes: `told` if it is given, else those of its key."""
        plates, faults = [], []
        for plate in (told,) if told else plates_of_map(file.key) or ("",):
            try:
                plates.append(check_plate(plate))
            except InvalidRequest as refused:
                faults.append(str(refused))
        if not plates:
            self._logger.warning("plate_map_rejected", plate_map=file.uri, error="; ".join(faults))
        elif told is None and plates[1:] and self._has_own_map(plates[1]):
            plates.pop()
        return plates

    def _has_own_map(self, plate: str) -> bool:
        """Tell whether a plate has a map that is named after it, or has no name but its folder's."""
        stored = self._plates.map_of(plate)
        return stored is not None and plates_of_map(parse_uri(stored.uri, "map").key)[:1] == (plate,)

    def _keep_map(self, plate: str, stored: StoredMap) -> None:
        now = timestamp(self._clock())
        try:
            self._plates.put_map(plate, stored, now=now)
        except InvalidPlateMap as error:
            self._logger.warning("plate_map_rejected", plate_map=stored.uri, error=str(error))
            stored = StoredMap(uri=stored.uri, error=str(error))
            self._plates.put_map(plate, stored, now=now)
        self._logger.info("plate_map_stored", plate_map=stored.uri, plate=plate)
        if stored.plate_map is not None and stored.plate_map.expected_pages is not None:
            summary = self._plates.expect(plate, stored.plate_map.expected_pages, now=now)
            self._counts.announce_if_complete(summary)


def _scans_of_stack(result: Result) -> set[str]:
    """Return the scans of a stack's pages: their times, or their numbers; nothing for a single page."""
    if len(result.pages) < 2:
        return set()
    timed = {time_of(page.time, None) for page in result.pages if page.time is not None}
    return timed or {
        time_of(None, page.page if result.frame is None else result.frame) for page in result.pages
    }


def _spot(placed: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Return what two images must share to be counted once."""
    return placed["plate"], placed["place"], placed.get("channel")
