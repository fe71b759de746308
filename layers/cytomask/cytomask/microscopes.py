"""Zeiss CZI, Nikon ND2 and Leica LIF, read on the user's own computer by the extra `microscopes`.

The readers (pylibCZIrw by Zeiss, nd2, liffile) are loaded when the first such file is opened. Every scene,
position, time and depth is a page; channels are channels of a page, as in a TIFF. The functions refuse these
files: their readers would more than double the image and the cold start.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask.acquisition import iso_date
from cytomask.errors import EmptyImage, RejectedInput, UnreadableImage
from cytomask.images import (
    JPEG_MAGIC,
    PNG_MAGIC,
    ImageFile,
    PageHeader,
    PlaneFacts,
    StoredPage,
    open_image,
)
from cytomask.images.tiff import TIFF_MAGIC
from cytomask.images.work import Work
from cytomask.lengths import LARGEST_PIXEL_UM, SMALLEST_PIXEL_UM, PixelSize

READERS = {".czi": "pylibCZIrw", ".nd2": "nd2", ".lif": "liffile"}
RGB = 3
CZI_TYPES = {
    "Gray8": "uint8",
    "Gray16": "uint16",
    "Gray32Float": "float32",
    "Bgr24": "uint8",
    "Bgr48": "uint16",
}
Read = Callable[[int, int], NDArray[Any]]  # page and channel to (H, W), or (H, W, 3) where pages are coloured
Facts = Callable[[int, int], PlaneFacts]


class MicroscopeImage:
    """A file of one of these formats, as an `ImageFile`."""

    def __init__(
        self,
        name: str,
        pages: Sequence[PageHeader],
        read: Read,
        facts: Facts,
    ) -> None:
        self.name = name
        self.pages = pages
        self._read = read
        self._facts = facts

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """As `ImageFile.decode`."""
        if not self.pages[index].colour:
            return self._read(index, channel or 0)
        colours = self._read(index, 0)
        return colours if channel is None else colours[..., channel]

    def stored(self, index: int) -> StoredPage:
        """As `ImageFile.stored`."""
        page = self.pages[index]
        if page.colour or page.channels == 1:
            return StoredPage(index, self._read(index, 0))
        return StoredPage(
            index, np.stack([self._read(index, each) for each in range(page.channels)], axis=-1)
        )

    def facts(self, index: int, channel: int | None) -> PlaneFacts:
        """As `ImageFile.facts`."""
        return self._facts(index, channel or 0)

    def work(self, wanted: Sequence[int], channel: int | None) -> list[Work]:
        """As `ImageFile.work`; how the pages are packed is unknown."""
        sizes = [self.pages[index].decoded_bytes for index in wanted]
        return [Work("NONE", size, size, size) for size in sizes]


def is_installed(suffix: str) -> bool:
    """Tell whether the reader of files with this ending is installed."""
    return find_spec(READERS[suffix]) is not None


@contextmanager
def open_microscope(path: Path) -> Iterator[ImageFile]:
    """Open a CZI, ND2 or LIF file, or a TIFF, PNG or JPEG that is named like one.

    Raises:
        UnreadableImage: its reader is not installed, or cannot read it; or `open_image` raised it.
        EmptyImage: it holds no image.
        FileNotFoundError: there is no such file.
    """
    suffix, name = path.suffix.lower(), str(path)
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] in TIFF_MAGIC or magic == PNG_MAGIC or magic.startswith(JPEG_MAGIC):
        with open_image(path) as image:
            yield image
        return
    if not is_installed(suffix):
        raise UnreadableImage(
            f"{name} needs {READERS[suffix]}, which the extra `microscopes` brings: "
            "pip install 'cytomask[microscopes]', or export it as OME-TIFF"
        )
    opener = {".czi": _open_czi, ".nd2": _open_nd2, ".lif": _open_lif}[suffix]
    with ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = opener(path, name, stack)
        except (RejectedInput, MemoryError):
            raise
        except Exception as error:  # each reader raises types of its own for a damaged file
            raise UnreadableImage(
                f"{name} cannot be read ({type(error).__name__}: {error}); copy it again, or export it as "
                "OME-TIFF"
            ) from error
        if not image.pages:
            raise EmptyImage(f"{name} holds no image; export it anew")
        yield image


def _open_czi(path: Path, name: str, stack: ExitStack) -> ImageFile:
    from pylibCZIrw import czi  # noqa: PLC0415  # an extra

    file = stack.enter_context(czi.open_czi(str(path)))
    box = file.total_bounding_box
    scenes: Mapping[int, Any] = file.scenes_bounding_rectangle or {None: file.total_bounding_rectangle}
    types = [file.pixel_types[channel] for channel in sorted(file.pixel_types)]
    unknown = sorted(set(types) - CZI_TYPES.keys())
    if unknown or len(set(types)) > 1:
        raise UnreadableImage(
            f"{name} has channels of the types {', '.join(sorted(set(types)))}; export the one to "
            "segment as TIFF"
        )
    colour = types[0].startswith("Bgr")
    first = {axis: box.get(axis, (0, 1))[0] for axis in "TZC"}
    places = list(product(scenes, range(*box.get("T", (0, 1))), range(*box.get("Z", (0, 1)))))
    information = file.metadata["ImageDocument"]["Metadata"]
    size = _pixel_size_of_czi(information)
    headers = [
        _header(scenes[scene].h, scenes[scene].w, CZI_TYPES[types[0]], len(types), size, colour=colour)
        for scene, _, _ in places
    ]

    def read(index: int, channel: int) -> NDArray[Any]:
        scene, time, depth = places[index]
        plane = {"T": time, "Z": depth, "C": first["C"] + channel}
        pixels: NDArray[Any] = file.read(plane=plane, scene=scene)  # H, W, samples
        return pixels[..., ::-1] if colour else pixels[..., 0]

    names, date, step = _names_of_czi(information), _date_of_czi(information), _interval_of_czi(information)

    def facts(index: int, channel: int) -> PlaneFacts:
        since = places[index][1] - first["T"]
        return PlaneFacts(
            names[channel] if channel < len(names) else None, date, None if step is None else since * step
        )

    return MicroscopeImage(name, headers, read, facts)


def _pixel_size_of_czi(information: Any) -> PixelSize | None:
    try:
        distances = _listed(information["Scaling"]["Items"]["Distance"])
        metres = {each["@Id"]: float(each["Value"]) for each in distances}
        return _plausible(metres["X"] * 1e6, metres["Y"] * 1e6)
    except (KeyError, TypeError, ValueError):
        return None


def _names_of_czi(information: Any) -> list[str | None]:
    try:
        channels = information["Information"]["Image"]["Dimensions"]["Channels"]["Channel"]
        return [each.get("@Name") for each in _listed(channels)]
    except (KeyError, TypeError, AttributeError):
        return []


def _date_of_czi(information: Any) -> str | None:
    try:
        return iso_date(information["Information"]["Image"]["AcquisitionDateAndTime"])
    except (KeyError, TypeError, AttributeError):
        return None


def _interval_of_czi(information: Any) -> float | None:
    """Return the seconds between two times; None if they are not regular."""
    try:
        times = information["Information"]["Image"]["Dimensions"]["T"]["Positions"]["Interval"]
        seconds = float(times["Increment"])
    except (KeyError, TypeError, ValueError):
        return None
    return seconds if 0 < seconds < math.inf else None


def _open_nd2(path: Path, name: str, stack: ExitStack) -> ImageFile:
    import nd2  # noqa: PLC0415  # an extra

    file = stack.enter_context(nd2.ND2File(path))
    sizes = file.sizes
    channels = sizes.get("C", 1)
    frames = len(file.loop_indices) if file.loop_indices else 1
    header = _header(
        sizes["Y"],
        sizes["X"],
        file.dtype.name,
        channels,
        _pixel_size_of_nd2(file),
        colour=sizes.get("S", 1) == RGB,
        together=True,
    )

    def read(index: int, channel: int) -> NDArray[Any]:
        frame = file.read_frame(index)  # a view of the mapped file, which is unmapped when it is closed
        return np.array(frame[channel] if channels > 1 else frame)

    def facts(index: int, channel: int) -> PlaneFacts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of times that the file does not have
            try:
                told = file.frame_metadata(index).channels[channel]  # type: ignore[union-attr]  # no legacy file
            except Exception:  # missing metadata is no reason to refuse a file
                return PlaneFacts()
        seconds = told.time.relativeTimeMs / 1000
        return PlaneFacts(told.channel.name or None, None, seconds if frames > 1 else None)

    return MicroscopeImage(name, [header] * frames, read, facts)


def _pixel_size_of_nd2(file: Any) -> PixelSize | None:
    try:
        size = file.voxel_size()
        return _plausible(size.x, size.y)
    except Exception:  # nd2 stumbles over channels without a probe; its pixels are there
        return None


def _open_lif(path: Path, name: str, stack: ExitStack) -> ImageFile:
    import liffile  # noqa: PLC0415  # an extra

    file = stack.enter_context(liffile.LifFile(path))
    headers: list[PageHeader] = []
    moments: list[PlaneFacts] = []
    places: list[tuple[Any, dict[str, int]]] = []
    for image in file.images:
        sizes = dict(image.sizes)
        if not {"X", "Y"} <= sizes.keys():
            continue  # a line or a point scan
        colour = sizes.get("S", 1) == RGB
        outer = [axis for axis in sizes if axis not in "XYCS"]
        header = _header(
            sizes["Y"],
            sizes["X"],
            image.dtype.name,
            sizes.get("C", 1),
            _pixel_size_of_lif(image),
            colour=colour,
        )
        own = [dict(zip(outer, at, strict=True)) for at in product(*(range(sizes[axis]) for axis in outer))]
        headers += [header] * len(own)
        places += [(image, at) for at in own]
        moments += _moments_of_lif(image, len(own))

    def read(index: int, channel: int) -> NDArray[Any]:
        image, at = places[index]
        of_channel = {"C": channel} if "C" in image.sizes else {}
        return np.asarray(image.frame(**at, **of_channel))

    return MicroscopeImage(name, headers, read, lambda index, _: moments[index])


def _moments_of_lif(image: Any, pages: int) -> list[PlaneFacts]:
    """Return when each page of an image was taken; the stamps are of its frames, in the pages' order."""
    try:
        stamps = image.timestamps
    except Exception:  # missing or damaged stamps are no reason to refuse a file
        stamps = None
    if stamps is None or not len(stamps):
        return [PlaneFacts()] * pages
    date = iso_date(str(stamps[0]))
    frames, rest = divmod(len(stamps), pages)
    if pages == 1 or rest:
        return [PlaneFacts(date=date)] * pages
    since = (stamps[::frames] - stamps[0]) / np.timedelta64(1, "s")  # pages, in seconds
    return [PlaneFacts(date=date, elapsed_s=seconds if seconds >= 0 else None) for seconds in since.tolist()]


def _pixel_size_of_lif(image: Any) -> PixelSize | None:
    """Measure a pixel. Coordinates are metres, from the first pixel's middle to the last one's."""
    sides = []
    for axis in "XY":
        coordinates = image.coords.get(axis)
        if coordinates is None or len(coordinates) < 2:
            return None
        sides.append(float(coordinates[-1] - coordinates[0]) / (len(coordinates) - 1) * 1e6)
    return _plausible(*sides)


def _header(
    height: int,
    width: int,
    dtype: str,
    channels: int,
    pixel_size: PixelSize | None,
    *,
    colour: bool,
    together: bool = False,
) -> PageHeader:
    """Describe a page. `together`: all its channels are decoded at once."""
    samples = RGB if colour else channels if together else 1
    return PageHeader(
        height=height,
        width=width,
        channels=RGB if colour else channels,
        colour=colour,
        dtype=dtype,
        decoded_bytes=height * width * samples * np.dtype(dtype).itemsize,
        pixel_size=pixel_size,
    )


def _plausible(width: float, height: float) -> PixelSize | None:
    good = all(SMALLEST_PIXEL_UM <= side <= LARGEST_PIXEL_UM for side in (width, height))
    return PixelSize(width, height) if good else None


def _listed(found: Any) -> list[Any]:
    """Return as a list what XML has once or several times."""
    return found if isinstance(found, list) else [found]
