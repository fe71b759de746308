"""The files that the outputs of a request ask for, page by page, for the function and the command alike."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask import images
from cytomask.images import PlaneFacts
from cytomask.lengths import PixelSize
from cytomask.output_names import OUTPUT_FILES
from cytomask.requests import Output


def encode_files(
    outputs: Iterable[Output],
    *,
    pixels: NDArray[Any],
    mask: NDArray[np.bool_],
    probability: NDArray[np.float32],
    name: str,
    pixel_size: PixelSize | None,
    facts: Callable[[], PlaneFacts] = PlaneFacts,
) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Yield each file of the outputs: its name in the result, the ending of its key, and its encoder.

    Args:
        outputs: of the request.
        pixels: (H, W), any real dtype.
        mask: (H, W) bool.
        probability: (H, W) float32, 0..1.
        name: of the page, for the ids in GeoJSON.
        pixel_size: of the page, if known.
        facts: reads the channel and moment of the page, which OME-TIFF keeps.
    """
    exports = None
    for kind, ending in ((kind, end) for output in outputs for kind, end in OUTPUT_FILES[output].items()):
        match kind:
            case "mask":
                yield kind, ending, partial(images.encode_mask, mask)
            case "probability":
                yield kind, ending, partial(images.encode_probability, probability)
            case "overlay":
                yield kind, ending, partial(images.encode_overlay, pixels, mask)
            case _:
                from cytomask.exports import MaskExports  # noqa: PLC0415  # a cold start does without

                exports = exports or MaskExports(mask, name=name, pixel_size=pixel_size, facts=facts)
                yield kind, ending, partial(exports.encode, kind)
