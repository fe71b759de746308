"""Export masks to other formats: ImageJ/Fiji, QuPath, label images, OME-TIFF.

Every format is written only from a mask, so that they all show the same cells. Coordinates are in pixels of
the page, with (0, 0) at the upper left corner of its first pixel.
"""

import csv
import hashlib
import io
import uuid
import zipfile
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import roifile
import tifffile
from numpy.typing import NDArray

from cytomask.errors import ImageTooLarge
from cytomask.images import PlaneFacts
from cytomask.lengths import PixelSize
from cytomask.regions import Mask, Regions, find_regions

CELL_COLOUR = (0, 158, 115)  # bluish green, told apart by colour-blind readers (Okabe and Ito 2008)
LARGEST_ROI_SIDE = 32_767  # ImageJ keeps a ROI's box as 16-bit signed integers
# 100,000 regions take 7 s as an ROI set of 18 MB, and 2.5 s as 32 MB of GeoJSON, on one core.
MOST_OUTLINES = 200_000
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same mask gives the same bytes
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0  # java.awt.geom.PathIterator, as ij.gui.ShapeRoi stores a path
UINT16_LABELS = 65_535
Point = list[int]  # x and y
NOTHING_TOLD = PlaneFacts()
LABEL_COLUMNS = ("label", "area_px", "left", "top", "width", "height", "touches_border")


class MaskExports:
    """Encodes one page's mask in any of the formats; finds its regions when they are first needed."""

    def __init__(
        self,
        mask: Mask,
        *,
        name: str,
        pixel_size: PixelSize | None = None,
        facts: Callable[[], PlaneFacts] = PlaneFacts,
    ) -> None:
        """Take a mask, (H, W) bool, the page's name and pixel size, and a reader of its channel and time."""
        self._mask = mask
        self._name = name
        self._pixel_size = pixel_size
        self._facts = facts

    @cached_property
    def _regions(self) -> Regions:
        return find_regions(self._mask)

    def encode(self, kind: str) -> bytes:
        """Encode the file of this kind: `rois`, `geojson`, `labels`, `labels_table` or `ome`."""
        match kind:
            case "rois":
                return encode_rois(self._regions)
            case "geojson":
                return encode_geojson(self._regions, name=self._name, pixel_size=self._pixel_size)
            case "labels":
                return encode_labels(self._regions, self._pixel_size)
            case "labels_table":
                return encode_label_table(self._regions, self._pixel_size)
            case "ome":
                return encode_ome(self._mask, pixel_size=self._pixel_size, facts=self._facts())
        raise ValueError(f"{kind} is not an export of a mask")


def encode_rois(regions: Regions) -> bytes:
    """Encode regions as an ImageJ ROI set: a .zip with one .roi for each region, with its holes.

    A region without holes is a traced polygon, one with holes a composite ROI
    (imagej.net/ij/source/ij/io/RoiDecoder.java).

    Raises:
        ImageTooLarge: the page is larger than ImageJ's ROI format can address, or has too many regions.
    """
    if max(regions.shape) > LARGEST_ROI_SIDE:
        raise ImageTooLarge(
            f"a page of {regions.shape[1]} x {regions.shape[0]} pixels has no ROI set: ImageJ's format ends "
            f"at {LARGEST_ROI_SIDE} pixels a side; ask for geojson or labels"
        )
    _require_few(regions, "an ROI set")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, rings in enumerate(regions, 1):
            name = f"cell-{number:06d}"
            entry = zipfile.ZipInfo(f"{name}.roi", ZIP_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, _roi(rings, name).tobytes())
    return stream.getvalue()


def _require_few(regions: Regions, what: str) -> None:
    if len(regions) > MOST_OUTLINES:
        raise ImageTooLarge(
            f"the mask has {len(regions):,} regions and {what} holds at most {MOST_OUTLINES:,}; leave out "
            "specks with `min_size_px`, or ask for `labels`"
        )


def _roi(rings: list[NDArray[np.int32]], name: str) -> roifile.ImagejRoi:
    outline = rings[0]
    if len(rings) == 1:
        roi = roifile.ImagejRoi.frompoints(outline, name=name)
        roi.roitype = roifile.ROI_TYPE.TRACED
    else:
        path = np.concatenate([_path(ring) for ring in rings])
        roi = roifile.ImagejRoi()
        roi.name = name
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.options = roifile.ROI_OPTIONS.OVERLAY_BACKGROUNDS | roifile.ROI_OPTIONS.OVERLAY_LABELS
        roi.multi_coordinates = path
        roi.shape_roi_size = len(path)
    # `frompoints` takes corners for pixels, and so makes the box a pixel too large.
    roi.left, roi.top = outline.min(axis=0).tolist()
    roi.right, roi.bottom = outline.max(axis=0).tolist()
    return roi


def _path(ring: NDArray[np.int32]) -> NDArray[np.float32]:
    """Write a closed ring as the steps of a path: each has an operation and, except the last, a point."""
    steps = np.full((len(ring), 3), LINE_TO, np.float32)  # n, (operation, x, y)
    steps[0, 0] = MOVE_TO
    steps[:, 1:] = ring
    return np.append(steps.ravel(), np.float32(CLOSE))


def encode_geojson(regions: Regions, *, name: str, pixel_size: PixelSize | None = None) -> bytes:
    """Encode regions as a feature collection for QuPath: one polygon for each region, with its holes.

    Each feature is an annotation of the class "Cell" with its area as a measurement
    (qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html; RFC 7946 for the geometry,
    though coordinates are pixels, with y pointing down as in every image). Polygons are valid by the rules of
    OGC's Simple Features (1.2.1, 6.1.11.1): rings do not touch themselves, and any two meet in single points.

    Args:
        regions: regions of the page.
        name: name of the page; the features' ids contain it, so that they differ between pages.
        pixel_size: adds the area in square micrometres.

    Raises:
        ImageTooLarge: the mask has too many regions.
    """
    _require_few(regions, "a GeoJSON file")
    page = uuid.uuid5(uuid.NAMESPACE_URL, name)
    features = []
    for number, (rings, area) in enumerate(zip(regions, regions.areas.tolist(), strict=True), 1):
        measurements: dict[str, float] = {"Area px^2": area}
        if pixel_size:
            measurements["Area µm^2"] = area * pixel_size.area_um2
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(page, str(number))),
                "geometry": {"type": "Polygon", "coordinates": _simple_rings(rings)},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": "Cell", "color": CELL_COLOUR},
                    "measurements": measurements,
                },
            }
        )
    return msgspec.json.encode({"type": "FeatureCollection", "features": features})


def _simple_rings(rings: list[NDArray[np.int32]]) -> list[list[Point]]:
    """Split a region's rings where they touch themselves, at corners; return its outline, then its holes.

    A region's pixels share sides, so of an outline that touches itself one part is the outline and the others
    are holes; of a hole all parts are holes. Each ring ends with its first point, as GeoJSON requires.
    """
    outline, *holes = (_simple_parts(ring.tolist()) for ring in rings)
    if len(outline) > 1:
        outline.sort(key=_signed_area, reverse=True)  # holes have negative areas
    return [*outline, *(part for parts in holes for part in parts)]


def _simple_parts(ring: list[Point]) -> list[list[Point]]:
    """Split a ring at the points that it passes twice, into closed rings that pass each point once."""
    parts: list[list[Point]] = []
    passed: list[Point] = []
    places: dict[tuple[int, ...], int] = {}  # of the points in `passed`
    for point in [*ring, ring[0]]:
        place = places.setdefault(tuple(point), len(passed))
        if place < len(passed):
            parts.append([*passed[place:], point])
            for each in passed[place + 1 :]:
                del places[tuple(each)]
            del passed[place + 1 :]
        else:
            passed.append(point)
    return parts


def _signed_area(ring: list[Point]) -> float:
    """Compute the area of a closed ring of horizontal and vertical sides, negative for holes."""
    return sum(x * (below - y) for (x, y), (_, below) in pairwise(ring))


def encode_labels(regions: Regions, pixel_size: PixelSize | None = None) -> bytes:
    """Encode regions as an OME-TIFF of labels: 0 is background, each region has its number, counted from 1.

    The dtype is uint16, or uint32 if there are more than 65,535 regions.
    """
    dtype = np.uint16 if len(regions) <= UINT16_LABELS else np.uint32
    return _encode_ome(regions.labels().astype(dtype), pixel_size, {"Channel": {"Name": "labels"}})


def encode_label_table(regions: Regions, pixel_size: PixelSize | None = None) -> bytes:
    """Encode a CSV with a row for each label: its area, its box, and whether the page's border cuts it."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow((*LABEL_COLUMNS, "area_um2") if pixel_size else LABEL_COLUMNS)
    facts = zip(regions.areas.tolist(), regions.boxes.tolist(), regions.touching_border.tolist(), strict=True)
    for label, (area, (left, top, right, bottom), cut) in enumerate(facts, 1):
        row = (label, area, left, top, right - left, bottom - top, int(cut))
        writer.writerow((*row, f"{area * pixel_size.area_um2:.3f}") if pixel_size else row)
    return stream.getvalue().encode()


def encode_ome(
    mask: Mask,
    *,
    pixel_size: PixelSize | None = None,
    facts: PlaneFacts = NOTHING_TOLD,
) -> bytes:
    """Encode a mask as an OME-TIFF of 0 and 255 that viewers lay over its image.

    Args:
        mask: (H, W) bool.
        pixel_size: size of the image's pixels.
        facts: facts about the image: its channel's name, `AcquisitionDate`, and the plane's `DeltaT`.
    """
    metadata: dict[str, Any] = {"Channel": {"Name": facts.channel or "cytomask"}}
    if facts.date:
        metadata["AcquisitionDate"] = facts.date
    if facts.elapsed_s is not None:
        metadata["Plane"] = {"DeltaT": [facts.elapsed_s], "DeltaTUnit": ["s"]}
    return _encode_ome(np.where(mask, np.uint8(255), np.uint8(0)), pixel_size, metadata)


def _encode_ome(pixels: NDArray[Any], pixel_size: PixelSize | None, metadata: dict[str, Any]) -> bytes:
    content = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    metadata |= {"axes": "YX", "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, content))}
    if pixel_size:
        metadata |= {"PhysicalSizeX": pixel_size.width_um, "PhysicalSizeXUnit": "µm"}
        metadata |= {"PhysicalSizeY": pixel_size.height_um, "PhysicalSizeYUnit": "µm"}
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, ome=True) as writer:
        writer.write(pixels, compression="zlib", photometric="minisblack", metadata=metadata)
    return stream.getvalue()
