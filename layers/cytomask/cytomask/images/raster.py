"""Read PNG and JPEG files, which hold one page each."""

import io
from collections.abc import Sequence
from typing import IO, Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomask.errors import UnreadableImage
from cytomask.images import jpeg, png
from cytomask.images.orientation import AS_STORED, swaps_sides, upright
from cytomask.images.pages import RGB, RGBA, PageHeader, PlaneFacts, StoredPage
from cytomask.images.spliced import Spliced, read_all
from cytomask.images.work import Work

CMYK = 4


class PngImage:
    """A PNG. Text, colour profiles and other chunks without pixels are skipped."""

    def __init__(self, stream: IO[bytes], size: int, name: str) -> None:
        self.name = name
        self._stream = stream
        self._png = png.read_png(stream, 0, size, name)
        grey = self._png.colours in (png.GREY, png.GREY_ALPHA)
        item = 2 if self._png.depth == 16 else 1
        samples = png.SAMPLES[self._png.colours]
        # Pillow keeps a colour's three bytes in four.
        self.pages: Sequence[PageHeader] = (
            _header(
                self._png.height,
                self._png.width,
                self._png.orientation,
                grey=grey,
                dtype="uint16" if item == 2 else "uint8",
                sample_bytes=item * (samples if grey or item == 2 else RGBA),
                palette=self._png.colours == png.PALETTE,
            ),
        )

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """As `ImageFile.decode`; transparency is left out."""
        del index
        png.require_sums(self._stream, self._png.parts, self.name)
        if self._is_wide:
            samples = self._wide()
            pixels = samples[..., :RGB] if self.pages[0].colour else samples[..., 0]
        else:
            with self._open() as image:
                if image.mode == "I;16":
                    pixels = np.asarray(image)
                else:
                    pixels = np.asarray(image.convert("RGB" if self.pages[0].colour else "L"))
        pixels = upright(pixels, self._png.orientation)
        return pixels[..., channel] if self.pages[0].colour and channel is not None else pixels

    def facts(self, index: int, channel: int | None) -> PlaneFacts:
        """As `ImageFile.facts`: nothing."""
        return PlaneFacts()

    def work(self, wanted: Sequence[int], channel: int | None) -> list[Work]:
        """As `ImageFile.work`."""
        del channel
        packed = sum(length for _, length in self._png.parts)
        decoded = self.pages[0].decoded_bytes
        return [Work("PNG", packed, decoded, decoded, self._png.chunks)] * len(wanted)

    def stored(self, index: int) -> StoredPage:
        """As `ImageFile.stored`."""
        png.require_sums(self._stream, self._png.parts, self.name)
        if self._is_wide:
            values, alpha = self._split(self._wide())
        else:
            with self._open() as image:
                values, alpha = self._values(image), _alpha(image)
        turn = self._png.orientation
        return StoredPage(index, upright(values, turn), None if alpha is None else upright(alpha, turn))

    def _split(self, samples: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Split (H, W, samples) into grey values or colours, and transparency."""
        if self._png.colours == png.RGB:
            return samples, None
        values = samples[..., :-1]
        return values[..., 0] if self._png.colours == png.GREY_ALPHA else values, samples[..., -1]

    def _values(self, image: Image.Image) -> NDArray[Any]:
        """Return indices of a palette, grey values or colours, exactly as stored."""
        if image.mode in ("P", "I;16"):
            return np.asarray(image)
        if self._png.colours in (png.GREY, png.GREY_ALPHA):
            grey = np.asarray(image.convert("L"))
            return grey // np.uint8(255 // (2**self._png.depth - 1))  # Pillow spreads few bits over 0 to 255
        return np.asarray(image.convert("RGBA"))[..., :RGB]

    @property
    def _is_wide(self) -> bool:
        """Whether it has 16 bits and more than one sample, which Pillow cuts to 8."""
        return self._png.depth == 16 and self._png.colours != png.GREY

    def _wide(self) -> NDArray[np.uint16]:
        """Decode the samples: (H, W, samples)."""
        samples: NDArray[np.uint16] = imagecodecs.png_decode(read_all(self._stream, self._png.parts))
        return samples

    def _open(self) -> Image.Image:
        return Image.open(io.BufferedReader(Spliced(self._stream, self._png.parts)), formats=("PNG",))


class JpegImage:
    """A JPEG's first picture. Previews, comments and colour profiles are ignored."""

    def __init__(self, stream: IO[bytes], size: int, name: str) -> None:
        self.name = name
        self._stream = stream
        self._jpeg = jpeg.read_jpeg(stream, 0, size, name)
        wide = self._jpeg.precision > 8
        if self._jpeg.process not in (*jpeg.HUFFMAN_8_BITS, *jpeg.ARITHMETIC, jpeg.LOSSLESS):
            raise UnreadableImage(
                f"{name} is a JPEG of a rare kind (SOF{self._jpeg.process - 0xC0}); save it as TIFF or PNG"
            )
        if self._jpeg.components not in (1, RGB, CMYK):
            raise UnreadableImage(
                f"{name} is a JPEG with {self._jpeg.components} samples a pixel; save it as TIFF or PNG"
            )
        grey = self._jpeg.components == 1
        self.pages: Sequence[PageHeader] = (
            _header(
                self._jpeg.height,
                self._jpeg.width,
                self._jpeg.orientation,
                grey=grey,
                dtype="uint16" if wide else "uint8",
                sample_bytes=(2 if wide else 1) * (1 if grey else RGBA),
            ),
        )

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """As `ImageFile.decode`."""
        del index
        pixels = upright(self._pixels(), self._jpeg.orientation)
        return pixels[..., channel] if self.pages[0].colour and channel is not None else pixels

    def facts(self, index: int, channel: int | None) -> PlaneFacts:
        """As `ImageFile.facts`: nothing."""
        return PlaneFacts()

    def work(self, wanted: Sequence[int], channel: int | None) -> list[Work]:
        """As `ImageFile.work`."""
        del channel
        packed = sum(length for _, length in self._jpeg.parts)
        decoded = self.pages[0].decoded_bytes
        passed = decoded * max(self._jpeg.scans, 1)
        return [Work("JPEG", packed, decoded, passed, len(self._jpeg.parts))] * len(wanted)

    def stored(self, index: int) -> StoredPage:
        """As `ImageFile.stored`."""
        return StoredPage(index, self.decode(index, None))

    def _pixels(self) -> NDArray[Any]:
        parts = self._jpeg.parts
        if self._jpeg.precision == 8 and self._jpeg.process != jpeg.LOSSLESS:
            with Image.open(io.BufferedReader(Spliced(self._stream, parts)), formats=("JPEG",)) as image:
                return np.asarray(image.convert("RGB" if self.pages[0].colour else "L"))
        if self._jpeg.components == CMYK:
            raise UnreadableImage(
                f"{self.name} is a JPEG of {self._jpeg.precision} bits in CMYK; save it as TIFF"
            )
        return np.asarray(imagecodecs.jpeg8_decode(read_all(self._stream, parts)))


def _header(
    height: int,
    width: int,
    orientation: int,
    *,
    grey: bool,
    dtype: str,
    sample_bytes: int,
    palette: bool = False,
) -> PageHeader:
    sides = (width, height) if swaps_sides(orientation) else (height, width)
    return PageHeader(
        *sides,
        channels=1 if grey else RGB,
        colour=not grey,
        dtype=dtype,
        decoded_bytes=height * width * sample_bytes,
        palette=palette,
        orientation=orientation,
        turned=orientation != AS_STORED,
    )


def _alpha(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return transparency, 0 to 255; None if the PNG has none."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    alpha: NDArray[np.uint8] = np.asarray(image.convert("RGBA"))[..., 3]
    return alpha
