"""Select the pages of a plate that the curves use, with their hours, and say why others are left out."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import msgspec
import numpy as np

from cytomask.acquisition import add_hours, hours_between
from cytomask.errors import InvalidRequest

FLAGS = (
    *("EMPTY", "OUT_OF_FOCUS", "SATURATED", "LOW_CONTRAST", "UNEVEN_LIGHT", "UNUSUAL", "UNCERTAIN"),
    "SQUASHED",
)
SAME_SCAN = 0.25  # share of the time between a site's scans: a longer pause lies between two scans
PHASE = ("phase", "ph", "p", "bright", "bf")  # channels that show confluence have names beginning like this


class PlatePage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One page of a plate, as the table or a local run knows it.

    Attributes:
        time: hours since the plate's first scan, or an ISO date; None if unknown.
        frame: number of the scan, or the page's number in a stack.
        hours: hours since the first scan; set by `build_report`.
        confluence: 0..1; None without a mask.
        confluence_low, confluence_high: the same at thresholds of 0.7 and 0.3, or at the job's own if that
            is above 0.7 or below 0.3.
        cell_area_mm2: area of the cells, if the size of a pixel is known.
        quality: names of the page's quality flags.
        pixels: number of pixels, the page's weight when sites are pooled; None weighs pages equally.
        uploaded_at: when the image was uploaded, as text that sorts by time.
        source: the naming scheme that placed it.
        error: why the mask is missing.
        job_id: id of the job that made the mask; empty if there is none.
    """

    plate: str
    well: str
    site: str = ""
    time: float | str | None = None
    frame: int | None = None
    hours: float | None = None
    channel: str | None = None
    confluence: float | None = None
    confluence_low: float | None = None
    confluence_high: float | None = None
    cell_area_mm2: float | None = None
    quality: tuple[str, ...] = ()
    pixels: int | None = None
    iou: float | None = None
    model: str | None = None
    mode: str | None = None
    threshold: float | None = None
    cost_usd: float | None = None
    image: str = ""
    mask: str | None = None
    page: int | None = None
    status: str = "SUCCEEDED"
    error: str | None = None
    uploaded_at: str = ""
    source: str = ""
    job_id: str = ""


class LeftOut(msgspec.Struct, frozen=True):
    """A page that no curve uses, and why."""

    image: str
    well: str
    reason: str


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The user's choices.

    Attributes:
        leave_out: names of quality flags whose pages are left out; `all` means every flag.
        interval_h: hours between scans, if names count scans instead of giving times.
        channel: the channel to measure, if there are several.
        control: the condition that the others are compared with.
        expected_pages: number of pages of the whole experiment.
    """

    leave_out: frozenset[str] = frozenset()
    interval_h: float | None = None
    channel: str | None = None
    control: str | None = None
    expected_pages: int | None = None


def parse_flags(names: Iterable[str]) -> frozenset[str]:
    """Read the names of quality flags, in any case, and `all`; raise InvalidRequest for others."""
    flags = frozenset(flag for name in names if (flag := name.strip().upper()))
    unknown = sorted(flags - {*FLAGS, "ALL"})
    if unknown:
        raise InvalidRequest(
            f"unknown quality flag {', '.join(unknown)[:100]} to leave out; use {', '.join(FLAGS)} or all"
        )
    return frozenset("all" if flag == "ALL" else flag for flag in flags)


@dataclass
class Sieve:
    """The pages kept so far, those left out, and notes on the plate."""

    kept: list[PlatePage]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: int = 0
    ended: int = 0

    def _sift(self, reasons: Mapping[int, str]) -> None:
        """Leave out the pages with these indices; name the pages of stacks by their numbers."""
        stacks = {page.image for page in self.kept if page.page}
        for index, reason in reasons.items():
            page = self.kept[index]
            where = f"page {page.page or 0}: " if page.image in stacks else ""
            self.left_out.append(LeftOut(page.image, page.well, where + reason))
        self.kept = [page for index, page in enumerate(self.kept) if index not in reasons]

    def drop_failures(self) -> None:
        """Leave out pages without a mask."""
        places = {
            (page.well, page.site, page.time, page.frame, page.page or 0, page.channel)
            for page in self.kept
            if page.status in ("SUCCEEDED", "REJECTED", "FAILED")
        }
        self.ended = len(places)
        reasons = {}
        for index, page in enumerate(self.kept):
            if page.confluence is None:
                what = {"REJECTED": "rejected", "FAILED": "failed"}.get(page.status, "not segmented yet")
                reasons[index] = f"{what}: {page.error}" if page.error else what
        self.failures = sum(page.status in ("REJECTED", "FAILED") for page in self.kept)
        self._sift(reasons)

    def keep_one_channel(self, wanted: str | None) -> None:
        """Keep one channel's pages: the wanted one, or phase contrast, or the most frequent."""
        counts = Counter(page.channel or "" for page in self.kept)
        if len(counts) < 2 and wanted is None:
            return
        chosen = wanted
        if chosen is None:
            phase = [name for name in counts if name.lower().startswith(PHASE)]
            chosen = max(phase or counts, key=lambda name: counts[name])
            told = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in counts.most_common())
            self.notes.append(
                f"there are pages of the channels {told}; growth is that of {chosen or 'unnamed'}"
            )
        elif chosen not in counts:
            names = ", ".join(sorted(filter(None, counts))) or "none by name"
            self.notes.append(f"no page is of the channel {chosen!r}; channels are: {names}")
        self._sift(
            {
                index: f"channel {page.channel or 'unnamed'}, growth is that of {chosen or 'unnamed'}"
                for index, page in enumerate(self.kept)
                if (page.channel or "") != chosen
            }
        )

    def drop_flagged(self, leave_out: frozenset[str]) -> None:
        """Leave out pages with a doubt that the user does not want; say how many stay in."""
        reasons = {}
        for index, page in enumerate(self.kept):
            doubts = [flag for flag in page.quality if flag in leave_out or "all" in leave_out]
            if doubts:
                reasons[index] = f"flagged: {', '.join(doubts)}"
        self._sift(reasons)
        doubted = Counter(flag for page in self.kept for flag in page.quality)
        if doubted:
            told = ", ".join(f"{flag} ({count})" for flag, count in doubted.most_common())
            self.notes.append(f"pages with doubts are used: {told}; --leave-out leaves them out")

    def set_hours(self, interval: float | None) -> None:
        """Give every page its hours since the first scan; leave out those without a time."""
        if interval is not None:
            self.kept = [*_timed_by_first(self.kept, interval)]
        kinds = Counter(_kind(page, interval) for page in self.kept)
        if not self.kept:
            return
        self._name_schemes()
        self._name_backward_times()
        kind = max(kinds, key=lambda each: (each != "none", kinds[each]))
        others = {name: count for name, count in kinds.items() if name not in (kind, "none")}
        if others:
            told = " and ".join(
                f"{count} with {name}" for name, count in {kind: kinds[kind], **others}.items()
            )
            self.notes.append(
                f"times of two kinds cannot be put in order: {told}; growth uses those with {kind}"
            )
        if kind == "none" or (
            kinds["none"] and interval is None and any(p.frame is not None for p in self.kept)
        ):
            self.notes.append(
                "some names tell no time, and no date is in the files; where names count scans, give the "
                "hours between two (--interval)"
            )
        self._sift(
            {
                index: "no time is known" if _kind(page, interval) == "none" else f"not a time with {kind}"
                for index, page in enumerate(self.kept)
                if kind == "none" or _kind(page, interval) != kind
            }
        )
        hours = _hours_of(self.kept, kind, interval)
        snapped = _snap(self.kept, hours)
        self.kept = [
            msgspec.structs.replace(page, hours=hour) for page, hour in zip(self.kept, snapped, strict=True)
        ]

    def _name_schemes(self) -> None:
        schemes = Counter(page.source for page in self.kept if page.source)
        if len(schemes) > 1:
            told = ", ".join(f"{scheme} ({count})" for scheme, count in schemes.most_common())
            self.notes.append(f"names of several schemes are in this plate: {told}; are these two plates?")

    def _name_backward_times(self) -> None:
        """Name series whose times go backwards while their scans' numbers go on."""
        stacks = {page.image for page in self.kept if page.page}
        series = defaultdict(list)
        for page in self.kept:
            if page.frame is not None and page.time is not None:
                stack = page.image if page.image in stacks else ""  # each stack counts its own frames
                series[page.well, page.site, type(page.time), stack].append((page.frame, page.time))
        wrong = []
        for (well, site, _, _), scans in series.items():
            scans.sort(key=lambda scan: scan[0])
            for (_, before), (frame, after) in pairwise(scans):
                if after < before:  # type: ignore[operator]  # both of one type
                    wrong.append(
                        f"{well}{f', site {site}' if site else ''}, scan {frame} ({before}, then {after})"
                    )
                    break
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            self.notes.append(
                f"times go backwards in {'; '.join(wrong[:3])}{more}: was a clock changed? Pages are "
                "ordered by their times"
            )

    def keep_latest(self) -> None:
        """Of several pages for one well, site and scan, keep the one that was uploaded last."""
        places: dict[tuple[str, str, float | None], list[int]] = defaultdict(list)
        for index, page in enumerate(self.kept):
            places[page.well, page.site, page.hours].append(index)
        reasons = {}
        for (well, site, hour), indices in places.items():
            if len(indices) < 2:
                continue
            *earlier, last = sorted(indices, key=lambda index: _age(self.kept[index]))
            where = f"{well}{f', site {site}' if site else ''} at {hour:g} h"
            for index in earlier:
                page, counts = self.kept[index], self.kept[last]
                apart = hours_between(page.time, counts.time)
                if page.image == counts.image and not apart:
                    reasons[index] = f"segmented again: {where} counts once, with the request's last result"
                elif apart:
                    later = f"{abs(apart):.2g} h {'later' if apart > 0 else 'earlier'}"
                    reasons[index] = f"{where}: a scan {later} counts as the same one: {counts.image}"
                else:
                    reasons[index] = f"{where} has a later upload, which counts: {counts.image}"
        if reasons:
            self.notes.append(
                "1 page is not the last one of its well, site and time"
                if len(reasons) == 1
                else f"{len(reasons)} pages are not the last ones of their well, site and time"
            )
        self._sift(reasons)


def _timed_by_first(pages: Sequence[PlatePage], interval: float) -> Iterator[PlatePage]:
    """Give the later pages of a stack their times if only that of its first page is known."""
    firsts = {page.image: page.time for page in pages if page.page == 0 and page.time is not None}
    for page in pages:
        first = firsts.get(page.image)
        if page.time is None and page.page and first is not None:
            yield msgspec.structs.replace(page, time=add_hours(first, page.page * interval))
        else:
            yield page


def _kind(page: PlatePage, interval: float | None) -> str:
    """What orders a page in time, in the words of a note."""
    if isinstance(page.time, str):
        return "dates"
    if page.time is not None:
        return "elapsed hours"
    return "numbered scans" if page.frame is not None and interval is not None else "none"


def _hours_of(pages: Sequence[PlatePage], kind: str, interval: float | None) -> list[float]:
    """Hours of pages that all have times of one kind."""
    if kind == "dates":
        dates = [datetime.fromisoformat(str(page.time)) for page in pages]
        first = min(dates, default=datetime.min)
        return [(date - first).total_seconds() / 3600 for date in dates]
    if kind == "numbered scans":
        frames = [page.frame or 0 for page in pages]
        first_frame = min(frames, default=0)
        return [(frame - first_frame) * (interval or 0.0) for frame in frames]
    return [float(page.time or 0) for page in pages]


def _snap(pages: Sequence[PlatePage], hours: Sequence[float]) -> list[float]:
    """Give all pages of a scan the hour of its first page, because a scan takes minutes to hours.

    A scan ends before a pause, or when one of its wells and sites comes again.
    """
    series = defaultdict(list)
    for page, hour in zip(pages, hours, strict=True):
        series[page.well, page.site].append(hour)
    steps = [step for own in series.values() for step in np.diff(np.unique(own)).tolist()]
    tolerance = SAME_SCAN * float(np.median(steps)) if steps else 0.0
    snapped = [0.0] * len(pages)
    begins = before = -math.inf
    seen: dict[tuple[str, str], float] = {}
    for index in np.argsort(hours, kind="stable").tolist():
        place, hour = (pages[index].well, pages[index].site), hours[index]
        if hour - before > tolerance or hour - seen.get(place, hour) > tolerance:
            begins, seen = hour, {}
        seen.setdefault(place, hour)
        snapped[index], before = round(begins, 4), hour
    return snapped


def _age(page: PlatePage) -> tuple[str, bool]:
    """Sort by upload; of one upload, the plain request's mask counts rather than one made with settings."""
    return page.uploaded_at, "/jobs/" not in (page.mask or "")
