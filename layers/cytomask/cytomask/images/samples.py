"""Read how the samples of a TIFF directory become light: photometric interpretation, palette, alpha."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from cytomask.errors import UnreadableImage
from cytomask.images.pages import RGB, RGBA

YCBCR_TO_RGB = (COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.ALT_JPEG)  # the decoder does it
FAX = (COMPRESSION.CCITTRLE, COMPRESSION.CCITT_T4, COMPRESSION.CCITT_T6)
TRANSPARENCY = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
PHOTOMETRIC_TAG, ORIENTATION_TAG = 262, 274
NOT_LIGHT = {
    PHOTOMETRIC.SEPARATED: "inks (CMYK)",
    PHOTOMETRIC.CFA: "the mosaic of a camera's colour filter",
    PHOTOMETRIC.LINEAR_RAW: "a camera's raw data",
    PHOTOMETRIC.LOGL: "logarithms of light (LogL)",
    PHOTOMETRIC.LOGLUV: "logarithms of light (LogLuv)",
}
FRAMES_AS_COLOURS = (
    "its writer calls planes that lie apart red, green and blue, as tifffile does with stacks of three or "
    "four grey frames: save frames as pages, and colours interleaved"
)


@dataclass(frozen=True)
class Interpretation:
    """How one directory's samples become light.

    Attributes:
        photometric: TIFF's code; libtiff's assumption if the tag is missing.
        bits: of a sample.
        visible: which samples of a pixel, or colours of its palette entry, are light.
        alpha: which sample is transparency; None if none is.
        coloured: whether the visible ones are red, green and blue.
        doubt: why they may be frames instead; empty if they cannot be.
        palette: (3, entries) uint16; None if there is none.
        orientation: 1 to 8, as TIFF and EXIF number it.
    """

    photometric: int
    bits: int
    visible: tuple[int, ...]
    alpha: int | None
    coloured: bool
    doubt: str
    palette: NDArray[np.uint16] | None
    orientation: int

    def light(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return values that grow with brightness, (H, W, samples), of any real dtype but bool."""
        values = plain(stored)
        if self.palette is not None:
            return np.moveaxis(self.palette[:, values[..., 0]], 0, -1)  # H, W, RGB
        if self.photometric == PHOTOMETRIC.MINISWHITE:
            return _inverted(values, self.bits)
        return values


def interpret(page: tifffile.TiffPage, samples: int, name: str) -> Interpretation:
    """Read a directory's photometric interpretation, palette, alpha and orientation.

    Args:
        page: the directory; if it does not say its photometric interpretation, it is given libtiff's.
        samples: how many of them a plane has; 1 if what the directory calls samples are pages.
        name: what to call the file in errors.

    Raises:
        UnreadableImage: the samples are not light.
    """
    if PHOTOMETRIC_TAG not in page.tags and page.compression != COMPRESSION.OJPEG:
        page.photometric = _assumed(page)
    photometric = page.photometric
    if photometric in NOT_LIGHT:
        raise UnreadableImage(f"{name} holds {NOT_LIGHT[PHOTOMETRIC(photometric)]}; export it in grey or RGB")
    palette = None
    if photometric == PHOTOMETRIC.PALETTE:
        palette = _palette(page, name)
    alphas = _alphas(page, samples)
    visible = tuple(range(RGB if palette is not None else samples))
    if palette is None:
        visible = tuple(sample for sample in visible if sample not in alphas)
    three = palette is None and len(visible) == RGB and photometric == PHOTOMETRIC.RGB
    apart = three and page.planarconfig == PLANARCONFIG.SEPARATE
    if apart:
        visible = tuple(range(samples))  # a fourth one may be a frame too
    decoded = photometric == PHOTOMETRIC.YCBCR and page.compression in YCBCR_TO_RGB and len(visible) == RGB
    return Interpretation(
        photometric=int(photometric),
        bits=page.bitspersample if isinstance(page.bitspersample, int) else 0,
        visible=visible,
        alpha=alphas[0] if alphas else None,
        coloured=palette is not None or (three and not apart) or decoded,
        doubt=FRAMES_AS_COLOURS if apart else "",
        palette=palette,
        orientation=_orientation(page),
    )


def plain(stored: NDArray[Any]) -> NDArray[Any]:
    """Return stored values as numbers: bits as 0 and 1 of uint8."""
    return stored.view(np.uint8) if stored.dtype.kind == "b" else stored


def _assumed(page: tifffile.TiffPage) -> PHOTOMETRIC:
    """Return the photometric interpretation that libtiff assumes for a directory without one."""
    colours = page.samplesperpixel - len(page.extrasamples)
    if page.samplesperpixel == RGBA and not page.extrasamples:
        colours = RGB
    if colours == RGB:
        return PHOTOMETRIC.RGB
    return PHOTOMETRIC.MINISWHITE if page.compression in FAX else PHOTOMETRIC.MINISBLACK


def _palette(page: tifffile.TiffPage, name: str) -> NDArray[np.uint16]:
    bits = page.bitspersample
    if page.colormap is None or page.dtype is None or page.dtype.kind not in "bu" or bits not in range(1, 17):
        raise UnreadableImage(f"{name} says that it has a palette, and has none; export it in grey or RGB")
    palette = np.asarray(page.colormap).reshape(-1)  # red entries, then green, then blue
    if palette.size != RGB * 2**bits:
        raise UnreadableImage(
            f"{name} has a palette of {palette.size} numbers where {RGB * 2**bits} belong; export it anew"
        )
    return palette.reshape(RGB, 2**bits).astype(np.uint16)


def _alphas(page: tifffile.TiffPage, samples: int) -> tuple[int, ...]:
    """Tell which samples are transparency; a fourth sample of RGB always is, declared or not."""
    if samples == 1:
        return ()
    if page.photometric == PHOTOMETRIC.RGB and samples == RGBA:
        return (RGB,)
    first = samples - len(page.extrasamples)
    return tuple(
        first + at for at, kind in enumerate(page.extrasamples) if kind in TRANSPARENCY and first + at > 0
    )


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(ORIENTATION_TAG, 1)
    return int(value) if value in range(1, 9) else 1


def _inverted(grey: NDArray[Any], bits: int) -> NDArray[Any]:
    """Invert values whose 0 is white, so that they grow with brightness."""
    if grey.dtype.kind == "f":
        return -grey
    inverted: NDArray[Any] = grey ^ grey.dtype.type(2**bits - 1 if grey.dtype.kind == "u" else -1)
    return inverted
