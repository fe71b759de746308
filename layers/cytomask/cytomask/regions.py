"""The connected regions of a mask: their outlines, areas and boxes, and masks drawn of some of them.

Outlines run along the edges of pixels, so a region's area is exactly its number of pixels. Pixels that meet
at a corner only are separate regions (4-connectivity). Cells that touch are one region: the network tells
cell from background, not cell from cell.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import contourpy
import numpy as np
from numpy.typing import NDArray

from cytomask.errors import ImageTooLarge

Mask = NDArray[np.bool_]
MOST_EDGES = 8_000_000  # upright edges of pixels; each takes 160 bytes while outlines are found


@dataclass(frozen=True)
class Regions:
    """The regions of one mask, numbered from 0, in the order of their topmost row.

    A region has one or more rings: its outline, then its holes. Coordinates are those of pixel corners: the
    pixel in column 0 and row 0 spans (0, 0) to (1, 1).

    Attributes:
        shape: height and width of the mask, in pixels.
        corners: (N, 2) int32, x and y of the rings' corners; the last of a ring joins its first.
        rings: (R + 1,) int64, where each ring begins in `corners`, and their end.
        outlines: (K + 1,) int64, where each region begins in `rings`, and their end.
        edges: (E, 2) int32, column and row of the pixel to the right of each upright edge of the outlines.
        edge_rings: (E,) int64, the ring that an edge belongs to.
    """

    shape: tuple[int, int]
    corners: NDArray[np.int32]
    rings: NDArray[np.int64]
    outlines: NDArray[np.int64]
    edges: NDArray[np.int32]
    edge_rings: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of regions."""
        return len(self.outlines) - 1

    def __iter__(self) -> Iterator[list[NDArray[np.int32]]]:
        """Yield each region's rings, the outline first: (n, 2) int32, x and y."""
        for first, last in zip(self.outlines[:-1], self.outlines[1:], strict=True):
            yield [self.corners[self.rings[ring] : self.rings[ring + 1]] for ring in range(first, last)]

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """The area of each region without its holes, in pixels: (K,)."""
        return np.add.reduceat(self._ring_areas, self.outlines[:-1]) if len(self) else np.zeros(0, np.int64)

    @cached_property
    def filled_areas(self) -> NDArray[np.int64]:
        """The area of each region with its holes, in pixels: (K,)."""
        return self._ring_areas[self.outlines[:-1]]

    @cached_property
    def boxes(self) -> NDArray[np.int32]:
        """The bounding box of each region, as left, top, right and bottom in corner coordinates: (K, 4)."""
        if not len(self):
            return np.zeros((0, 4), np.int32)
        begins = self.rings[self.outlines[:-1]]
        low = np.minimum.reduceat(self.corners, begins)  # K, 2: holes lie within their outline
        high = np.maximum.reduceat(self.corners, begins)  # K, 2
        return np.concatenate([low, high], axis=1)  # K, 4

    @cached_property
    def touching_border(self) -> NDArray[np.bool_]:
        """Whether the page's border cuts each region, so that its area is too small: (K,)."""
        height, width = self.shape
        left, top, right, bottom = self.boxes.T
        touching: NDArray[np.bool_] = (left == 0) | (top == 0) | (right == width) | (bottom == height)
        return touching

    def labels(self) -> NDArray[np.int32]:
        """Draw every region with its number plus 1, and background as 0: (H, W) int32."""
        values = np.repeat(np.arange(1, len(self) + 1, dtype=np.int32), np.diff(self.outlines))
        return self._drawn(values)

    def mask(self, *, min_area: float = 0, fill_holes: bool = False) -> Mask:
        """Draw the regions of at least `min_area` pixels, with their holes filled if asked: (H, W) bool.

        Holes are filled first, so that a ring counts with its inside.
        """
        areas = self.filled_areas if fill_holes else self.areas
        values = np.repeat((areas >= min_area).astype(np.int32), np.diff(self.outlines))
        if fill_holes:
            holes = np.ones(len(values), np.bool_)
            holes[self.outlines[:-1]] = False
            values[holes] = 0
        return self._drawn(values) > 0

    @cached_property
    def _ring_areas(self) -> NDArray[np.int64]:
        """The signed area of each ring, by the shoelace formula: negative for holes."""
        if len(self.rings) == 1:
            return np.zeros(0, np.int64)
        following = np.arange(1, len(self.corners) + 1)
        following[self.rings[1:] - 1] = self.rings[:-1]
        x, y = self.corners.astype(np.int64).T
        twice = np.add.reduceat(x * y[following] - x[following] * y, self.rings[:-1])
        areas: NDArray[np.int64] = twice // 2
        return areas

    def _drawn(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Fill every ring's region with its ring's value, by a running sum along the rows: (H, W) int32."""
        height, width = self.shape
        steps = np.zeros((height, width + 1), np.int32)
        column, row = self.edges.T
        steps[row, column] = self._edge_signs * values[self.edge_rings]
        drawn: NDArray[np.int32] = np.cumsum(steps[:, :width], axis=1, dtype=np.int32)
        return drawn

    @cached_property
    def _edge_signs(self) -> NDArray[np.int32]:
        """1 where a row enters a region at an edge, -1 where it leaves: they alternate along a row."""
        height, width = self.shape
        seen = np.zeros((height, width + 1), np.int8)
        column, row = self.edges.T
        seen[row, column] = 1
        order = np.cumsum(seen, axis=1, dtype=np.int32)[row, column]
        signs: NDArray[np.int32] = np.where(order % 2 == 1, 1, -1).astype(np.int32)
        return signs


def find_regions(mask: Mask) -> Regions:
    """Find the connected regions of a mask of shape (H, W) and dtype bool.

    Raises:
        ImageTooLarge: the mask is so ragged that its outlines would not fit into memory.

    contourpy walks the marching squares of the padded mask and returns the middles of the pixel edges that
    each outline crosses, with holes assigned to their outlines (contourpy.readthedocs.io,
    "FillType.ChunkCombinedOffsetOffset"). The middles of two neighbouring edges give the corner between them.
    """
    ragged = np.count_nonzero(mask[:, 1:] != mask[:, :-1])
    if ragged > MOST_EDGES:
        raise ImageTooLarge(
            f"the mask's outlines have {ragged:,} upright edges, the limit is {MOST_EDGES:,}: it looks like "
            "noise. Crop the page, or ask for `mask` alone, without `fill_holes` and a smallest size"
        )
    generator = contourpy.contour_generator(
        z=np.pad(mask, 1).astype(np.float64), fill_type=contourpy.FillType.ChunkCombinedOffsetOffset
    )
    [middles], [rings], [outlines] = generator.filled(0.5, 2.0)  # type: ignore[misc]  # typed for every fill type
    if middles is None or rings is None or outlines is None:
        none = np.zeros(1, np.int64)
        return Regions(
            mask.shape, np.zeros((0, 2), np.int32), none, none, np.zeros((0, 2), np.int32), none[:0]
        )
    halves = np.rint(2 * middles - 1).astype(np.int32)  # N, 2: twice the corner coordinates
    upright = halves[:, 0] % 2 == 0
    last = rings[1:].astype(np.int64) - 1  # each ring ends with its first point
    is_corner = np.zeros(len(halves), np.bool_)
    is_corner[:-1] = upright[:-1] != upright[1:]
    is_corner[last] = False
    at = np.flatnonzero(is_corner)
    here, there = halves[at], halves[at + 1]
    corners = np.where(
        upright[at, None], np.stack([here[:, 0], there[:, 1]], 1), np.stack([there[:, 0], here[:, 1]], 1)
    )
    ring_of = np.repeat(np.arange(len(last)), np.diff(rings))
    counts = np.bincount(ring_of[at], minlength=len(last))
    is_edge = upright
    is_edge[last] = False
    at = np.flatnonzero(is_edge)
    edges = np.stack([halves[at, 0] // 2, (halves[at, 1] - 1) // 2], axis=1)
    return Regions(
        shape=(mask.shape[0], mask.shape[1]),
        corners=(corners // 2).astype(np.int32),
        rings=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        outlines=outlines.astype(np.int64),
        edges=edges,
        edge_rings=ring_of[at].astype(np.int64),
    )
