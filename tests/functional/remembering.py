"""The real networks, asked once for each page: they take most of a test's time, and most tests send one page.

Nothing is imported from cytomask, so that `newest_world.py` runs on version 0.1 too.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Remembering:
    """A predictor that returns the same prediction for the same page, mode and threshold."""

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self.manifests, self.wait = predictor.manifests, predictor.wait
        self._known: dict[tuple[Any, ...], Any] = {}

    def predict(self, page: NDArray[Any], mode: str = "native", threshold: float | None = None) -> Any:
        content = hashlib.sha256(np.ascontiguousarray(page).tobytes()).hexdigest()
        known = content, page.shape, page.dtype, mode, threshold
        if known not in self._known:
            self._known[known] = self._predictor.predict(page, mode, threshold)
        return self._known[known]
