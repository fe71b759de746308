"""Ground truths with a third value: pixels that nobody marked, or that teachers dispute, are unknown.

Unknown pixels count in neither loss nor score. Each rule takes a normalised page and its marked cells, and
returns which pixels are known.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from cytomask import metrics
from cytomask.model.preprocess import Pixels

# From a normalised page, (H, W) float32, and its marked cells, (H, W) bool, to what is known, (H, W) bool.
Rule = Callable[[Pixels, metrics.Mask], metrics.Mask]

TEXTURE_SIDE = 9  # pixels; the window of the local deviation
SMOOTH = 0.35  # deviation of normalised pixels; ground below it is empty (found by eye on sartorius)
BETWEEN_NEURITES_SIDE = 3  # pixels; a wider window would reach a neurite from nearly everywhere
BETWEEN_NEURITES = 0.5  # deviation in that window, where noise weighs more
SOMA_MARGIN = 5  # pixels around a soma that stay unknown
DEBRIS_AREA = 100  # pixels, fringe included; smaller textured spots that touch no soma are debris
COLONY_REACH = 20  # pixels; half the widest gap that lies within a colony
HALO = 3  # pixels around a marked cell, bright or dark because of its halo
UNMARKED_SIDE = 13  # pixels; texture that is narrower may be a gap between two marked cells
UNKNOWN_GREY = 128  # in a pseudo-label's file, between background (0) and cell (255)


def texture(pixels: Pixels, side: int = TEXTURE_SIDE) -> Pixels:
    """Measure the local standard deviation in windows of `side` pixels: (H, W) float32."""
    window = (side, side)
    mean = cv2.blur(pixels, window)
    deviation: Pixels = np.sqrt(np.maximum(cv2.blur(pixels * pixels, window) - mean * mean, 0))
    return deviation


def somata(pixels: Pixels, cells: metrics.Mask) -> metrics.Mask:
    """Mark as known: the somata, and away from them smooth ground and debris.

    For neuron cultures whose ground truth leaves out neurites: textured ground may be a neurite.
    """
    near = _grown(cells, SOMA_MARGIN)
    textured = (texture(pixels, BETWEEN_NEURITES_SIDE) >= BETWEEN_NEURITES) | near
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(textured.astype(np.uint8), connectivity=8)
    unclear = (sizes[:, cv2.CC_STAT_AREA] >= DEBRIS_AREA) & (np.arange(len(sizes)) > 0)
    known: metrics.Mask = cells | ~(unclear[parts] | near)
    return known


def colonies(pixels: Pixels, cells: metrics.Mask) -> metrics.Mask:
    """Mark as known: everything but unmarked texture inside a colony.

    For LIVECell, whose ground truth leaves out whole cells that look like the marked cells beside them.
    """
    colony = cv2.morphologyEx(cells.astype(np.uint8), cv2.MORPH_CLOSE, _disc(COLONY_REACH)) > 0
    unmarked = colony & (texture(pixels) >= SMOOTH) & ~_grown(cells, HALO)
    wide = cv2.morphologyEx(unmarked.astype(np.uint8), cv2.MORPH_OPEN, _disc(UNMARKED_SIDE // 2)) > 0
    return cells | ~_grown(wide, HALO)


def _grown(area: metrics.Mask, radius: int) -> metrics.Mask:
    grown: metrics.Mask = cv2.dilate(area.astype(np.uint8), _disc(radius)) > 0
    return grown


def _disc(radius: int) -> NDArray[np.uint8]:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return disc.astype(np.uint8, copy=False)


RULES: dict[str, Rule] = {"somata": somata, "colonies": colonies}
