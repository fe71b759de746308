"""Masks of living cells from microscope images.

    import cytomask

    found = cytomask.segment("field.tif")
    found.mask, found.probability                      # NumPy arrays of the page's height and width
    cytomask.score(found.mask, "field_mask.png").iou
    cytomask.growth(hours, confluence).doubling_time_h

docs/python.md describes these names. Each loads on first use, because every cold start imports this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cytomask.notebook import (
        Acquisition,
        Growth,
        Prediction,
        Predictor,
        Score,
        growth,
        read_acquisition,
        read_page,
        score,
        segment,
    )

__version__ = "0.2.0"
__all__ = [
    "Acquisition",
    "Growth",
    "Prediction",
    "Predictor",
    "Score",
    "__version__",
    "growth",
    "read_acquisition",
    "read_page",
    "score",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("cytomask.notebook"), name)
    raise AttributeError(f"module 'cytomask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
