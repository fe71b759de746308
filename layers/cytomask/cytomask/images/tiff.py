"""Read TIFF, OME-TIFF and ImageJ stacks: headers first, then one page at a time."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytomask.errors import EmptyImage, ImageTooLarge, UnreadableImage
from cytomask.images import directories, ome, ome_xml, planes, segments, series
from cytomask.images.directories import Directory
from cytomask.images.pages import Limits, PageHeader, PlaneFacts, StoredPage
from cytomask.images.pixel_size import read_imagej_size
from cytomask.images.planes import Source
from cytomask.images.samples import plain
from cytomask.images.work import Work
from cytomask.lengths import PixelSize

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# tifffile complains in free text. Whatever matters of that is refused by name here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class _Page:
    """One page: a plane for each outer channel, all of the same meaning.

    Attributes:
        planes: of its channels.
        header: what the page is like.
        described: the page in the file's OME description, if it has one.
    """

    planes: tuple[Source, ...]
    header: PageHeader
    described: ome.Page | None


class TiffImage:
    """A TIFF, OME-TIFF or ImageJ stack. Axes other than rows, columns and channels count as pages."""

    def __init__(self, stream: IO[bytes], size: int, name: str, limits: Limits) -> None:
        self.name = name
        self._size = size
        self._limits = limits
        self._chain = directories.walk(stream, size, name, limits)
        if not self._chain:
            raise EmptyImage(f"{name} is a TIFF without pages; export it anew")
        _require_no_preview(stream, size, self._chain, name)
        stream.seek(0)
        # Read as a plain TIFF: what a slide scanner's reader believes of it may not fit in memory.
        alone = len(self._chain) == 1  # an LSM has a thumbnail for each page
        self._file = tifffile.TiffFile(
            stream,
            name=name.rpartition("/")[2],
            is_ndpi=False,
            is_scn=False,
            is_lsm=False if alone else None,
            # It would parse JSON of any length. Its stacks have descriptions of OME or ImageJ too.
            is_micromanager=False,
        )
        _require_short_descriptions(self._file.pages.first, name)
        self._loaded: dict[int, tifffile.TiffPage] = {}
        self._work: dict[int, Work] = {}
        self._steps = 0  # inside strips and tiles, over all directories in `_work`
        self._pages = self._find_pages()
        self.pages: Sequence[PageHeader] = tuple(page.header for page in self._pages)

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """As `ImageFile.decode`."""
        page = self._pages[index]
        visible = page.planes[0].meaning.visible
        outer, at = divmod(channel or 0, len(visible))
        source = page.planes[outer]
        light = source.meaning.light(source.read())  # H, W, samples
        if page.header.colour and channel is None:
            return light[..., visible]
        return light[..., visible[at]]

    def stored(self, index: int) -> StoredPage:
        """As `ImageFile.stored`."""
        page = self._pages[index]
        meaning = page.planes[0].meaning
        stored = [plain(source.read()) for source in page.planes]  # each H, W, samples
        samples = (0,) if meaning.palette is not None else meaning.visible
        values = [plane[..., sample] for plane in stored for sample in samples]
        alpha = None if meaning.alpha is None else stored[0][..., meaning.alpha]
        return StoredPage(index, values[0] if len(values) == 1 else np.stack(values, axis=-1), alpha)

    def facts(self, index: int, channel: int | None) -> PlaneFacts:
        """As `ImageFile.facts`."""
        from cytomask.images import facts  # noqa: PLC0415  # only some outputs need it

        page = self._pages[index]
        if page.described:
            outer = (channel or 0) // len(page.planes[0].meaning.visible)
            return facts.facts_of_ome(page.described.picture, page.described.places[outer])
        first = self._file.pages.first
        return facts.facts_of_tiff(first.description, facts.date_of(first), index, len(self.pages))

    def work(self, wanted: Sequence[int], channel: int | None) -> list[Work]:
        """As `ImageFile.work`."""
        sources = [source for index in wanted for source in self._sources(index, channel)]
        apart = [one for source in sources if not source.together for one in source.directories]
        once = {one.index: one for source in sources if source.together for one in source.directories}
        distinct = {one.index: one for one in apart} | once
        segments.require_apart(list(distinct.values()), self._size, self.name)
        for number, directory in distinct.items():
            if number not in self._work:
                self._work[number] = segments.work_of(directory, self.name)
                self._steps += self._work[number].segments - len(directory.dataoffsets)
                segments.require_few(self._steps, self.name)
        bare = [source.packed_bytes for source in sources if source.packed_bytes]
        return [
            *(self._work[one.index] for one in apart),
            *(self._work[number] for number in once),
            *(Work("NONE", count, count, count) for count in bare),
        ]

    def _sources(self, index: int, channel: int | None) -> tuple[Source, ...]:
        """List what is decoded for one channel of a page, or for all of them."""
        page = self._pages[index]
        if channel is None:
            return page.planes
        return (page.planes[channel // len(page.planes[0].meaning.visible)],)

    def _find_pages(self) -> list[_Page]:
        """Find the pages, in the order of the description or of the file."""
        text = self._file.pages.first.description
        described = ome_xml.describe(text, self.name)
        if described and not described.elsewhere:
            found = self._pages_by_ome(described)
            if found:
                return found
        self._file.is_ome = False
        if described is None:
            if len(self._chain) > 1 and not self._file.is_imagej and ome_xml.is_ome(text):
                raise series.misdescribed(self.name, len(self._chain))
            followed = series.follow(self._file, self._chain, self._load, self._size, self._limits, self.name)
            if followed is not None:
                size = read_imagej_size(self._file)
                return [self._page(sources, size) for sources in followed]
        return [self._page([source]) for source in self._planes_of(directories.pictures(self._chain))]

    def _planes_of(self, numbers: Sequence[int]) -> list[Source]:
        """List the planes of some directories; a volume has several."""
        found: list[Source] = []
        for number in numbers:
            directory = self._load(number)
            if len(found) + directory.imagedepth > self._limits.file_pages:
                raise directories.too_many_pages(self.name, self._limits)
            found += planes.of_directory(directory, self.name)
        return found

    def _pages_by_ome(self, described: ome_xml.Description) -> list[_Page]:
        sizes = [(one.height, one.width, one.samples) for one in self._chain]
        found = ome.pages(described, sizes, self._file.filename.lower(), self._limits, self.name)
        named = {number for page in found for number in page.directories}
        left = [one for at, one in enumerate(self._chain) if at not in named]
        if found and not all(one.is_reduced or one.is_mask for one in left):
            raise series.misdescribed(self.name, len(self._chain))
        if any(self._load(number).imagedepth > 1 for number in named):
            raise series.misdescribed(self.name, len(self._chain))
        held = dict(zip(sorted(named), self._planes_of(sorted(named)), strict=True))
        claims = {(number, id(page.picture)) for page in found for number in page.directories}
        times_claimed = Counter(number for number, _ in claims)
        listed = []
        for page in found:
            sources = [held[number] for number in page.directories]
            if all(times_claimed[number] == 1 for number in page.directories):
                listed.append(self._page(sources, page.picture.pixel_size, page))
            else:  # two images claim the plane, so neither tells its size
                listed.append(self._page(sources))
        return listed

    def _load(self, number: int) -> tifffile.TiffPage:
        """Load a directory of the chain as tifffile reads it; refuse it if its pixels are missing."""
        if number not in self._loaded:
            if not self._chain[number].area:
                size = f"{self._chain[number].width} x {self._chain[number].height}"
                raise EmptyImage(f"{self.name} has pages of {size} pixels; export it anew")
            directory = self._file.pages.first
            if number:
                self._file.filehandle.seek(self._chain[number].offset)
                directory = tifffile.TiffPage(self._file, number)
            segments.require_whole(directory, self._size, self._limits, self.name)
            self._loaded[number] = directory
        return self._loaded[number]

    def _page(
        self, sources: list[Source], pixel_size: PixelSize | None = None, described: ome.Page | None = None
    ) -> _Page:
        first = sources[0]
        alike = [(one.height, one.width, one.dtype, one.meaning.visible) for one in sources]
        if len(set(alike)) > 1:
            raise UnreadableImage(
                f"{self.name} has channels of several sizes or types on one page; save them alike"
            )
        meaning = first.meaning
        header = PageHeader(
            height=first.height,
            width=first.width,
            channels=len(sources) * len(meaning.visible),
            colour=meaning.coloured and len(sources) == 1,
            dtype=first.dtype,
            decoded_bytes=first.decoded_bytes,
            palette=meaning.palette is not None,
            lossy=any(directory.compression in segments.LOSSY for directory in first.directories),
            orientation=meaning.orientation,
            doubt=meaning.doubt,
            pixel_size=pixel_size,
        )
        return _Page(tuple(sources), header, described)


def _require_short_descriptions(page: tifffile.TiffPage, name: str) -> None:
    """Refuse long descriptions of the file's first page before they are parsed; a second one may be there."""
    for text in (page.description, page.description1):
        head = text[: ome_xml.LONGEST_DESCRIPTION]
        limit = ome_xml.LONGEST_DESCRIPTION if ome_xml.is_ome(head) else series.LONGEST_DESCRIPTION
        if len(text) > limit:
            raise ImageTooLarge(
                f"{name} has a description of {len(text)} characters, the limit is {limit}; export it anew"
            )


def _require_no_preview(stream: IO[bytes], size: int, chain: Sequence[Directory], name: str) -> None:
    """Refuse a camera's raw file: its chain holds a preview, and the picture lies below it."""
    if not all(one.is_reduced for one in chain):
        return
    largest = max(one.area for one in chain)
    for one in chain:
        below = directories.subdirectories(stream, size, one, name)
        if any(not other.is_reduced and other.area > largest for other in below):
            raise UnreadableImage(
                f"{name} is a camera's raw file, whose pages are previews of the picture in it; export that "
                "as TIFF"
            )
