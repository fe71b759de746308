"""Draw the README's picture: a generated page, its mask and the overlay. Run `make picture`."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import cytomask
from cytomask.images import encode_mask, encode_overlay
from cytomask.samples.fields import phase_contrast_field

PICTURE = Path(__file__).with_name("picture.png")
SEED, CONFLUENCE = 2, 0.3
WIDTH, GAP = 352, 8  # of each panel and between them, in pixels


def main() -> None:
    """Write the three panels side by side as one PNG of 256 colours."""
    page = phase_contrast_field(SEED, confluence=CONFLUENCE).pixels
    found = cytomask.segment(page)
    panels = [grey(page), panel(encode_mask(found.mask)), panel(encode_overlay(page, found.mask))]
    height = panels[0].height
    picture = Image.new("RGB", (3 * WIDTH + 2 * GAP, height), "white")
    for place, image in enumerate(panels):
        picture.paste(image, (place * (WIDTH + GAP), 0))
    picture.quantize(256).save(PICTURE, optimize=True)


def grey(page: NDArray[np.uint16]) -> Image.Image:
    """Show a page between its darkest and brightest percent."""
    low, high = np.percentile(page, (1, 99))
    shown = np.clip((page - low) / (high - low), 0, 1) * 255
    return shrink(Image.fromarray(shown.astype(np.uint8)))


def panel(png: bytes) -> Image.Image:
    """Decode a PNG and shrink it to a panel."""
    return shrink(Image.open(io.BytesIO(png), formats=("PNG",)))


def shrink(image: Image.Image) -> Image.Image:
    """Shrink an image to the width of a panel."""
    height = round(image.height * WIDTH / image.width)
    return image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
