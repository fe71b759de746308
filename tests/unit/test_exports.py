"""Every format read back by its own library shows the cells of the mask."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import shapely
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from cytomask.errors import ImageTooLarge
from cytomask.exports import (
    MaskExports,
    encode_geojson,
    encode_label_table,
    encode_labels,
    encode_ome,
    encode_rois,
)
from cytomask.images import PlaneFacts
from cytomask.lengths import PixelSize
from cytomask.regions import find_regions
from cytomask.samples.fields import phase_contrast_field

HALF = PixelSize(0.5, 0.5)


@pytest.fixture(scope="module")
def cells() -> NDArray[np.bool_]:
    """Draw the cells of a page, one with a hole."""
    cells = phase_contrast_field(7, 160, 220).cells.copy()
    cells[20:60, 30:80] = True
    cells[30:40, 40:50] = False
    return cells


def area(points: Any) -> float:
    """Compute the signed area of a ring of points."""
    x, y = np.asarray(points, np.float64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_a_roi_set_has_the_masks_area_and_keeps_holes(cells: NDArray[np.bool_], tmp_path: Path) -> None:
    regions = find_regions(cells)
    (tmp_path / "cells.zip").write_bytes(encode_rois(regions))
    rois = roifile.roiread(tmp_path / "cells.zip")
    assert isinstance(rois, list)
    assert [roi.name for roi in rois] == [f"cell-{number:06d}" for number in range(1, len(regions) + 1)]
    areas = [abs(sum(area(ring) for ring in roi.coordinates(multi=True))) for roi in rois]
    assert areas == regions.areas.tolist()
    assert any(roi.composite for roi in rois)
    boxes = [[roi.left, roi.top, roi.right, roi.bottom] for roi in rois]
    assert boxes == regions.boxes.tolist()


def test_a_roi_of_one_pixel_spans_it(tmp_path: Path) -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[3, 5] = True
    (tmp_path / "one.zip").write_bytes(encode_rois(find_regions(mask)))
    rois: Any = roifile.roiread(tmp_path / "one.zip")
    [roi] = rois
    assert {tuple(point) for point in roi.coordinates().tolist()} == {(5, 3), (6, 3), (6, 4), (5, 4)}


def test_a_page_that_imagej_cannot_address_has_no_roi_set() -> None:
    regions = find_regions(np.ones((1, 40_000), np.bool_))
    with pytest.raises(ImageTooLarge, match="32767 pixels a side; ask for geojson"):
        encode_rois(regions)


def test_geojson_has_the_masks_area_and_keeps_holes(cells: NDArray[np.bool_]) -> None:
    regions = find_regions(cells)
    collection = json.loads(encode_geojson(regions, name="s3://b/a.tif", pixel_size=HALF))
    assert collection["type"] == "FeatureCollection"
    for feature, expected in zip(collection["features"], regions.areas.tolist(), strict=True):
        rings = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings)  # RFC 7946, 3.1.6
        assert sum(area(ring[:-1]) for ring in rings) == expected
        measured = {"Area px^2": expected, "Area µm^2": expected / 4}
        assert feature["properties"]["measurements"] == measured
        assert feature["properties"]["classification"]["name"] == "Cell"


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
@example(np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], np.bool_))  # a hole
@example(np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]], np.bool_))  # an outline
@example(np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]], np.bool_))
def test_polygons_are_valid_by_ogcs_rules_and_cover_exactly_their_pixels(mask: NDArray[np.bool_]) -> None:
    regions = find_regions(mask)
    rows, columns = np.indices(mask.shape) + 0.5
    features = json.loads(encode_geojson(regions, name="a"))["features"]
    for label, feature in enumerate(features, 1):
        polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        assert polygon.area == regions.areas[label - 1]
        np.testing.assert_array_equal(shapely.contains_xy(polygon, columns, rows), regions.labels() == label)


def test_ids_of_features_differ_between_pages_and_stay_the_same() -> None:
    regions = find_regions(np.ones((2, 2), np.bool_))
    first, again, other = (encode_geojson(regions, name=name) for name in ("a", "a", "b"))
    assert first == again != other


def test_labels_are_a_tiff_of_16_bits_with_a_row_each(cells: NDArray[np.bool_]) -> None:
    regions = find_regions(cells)
    labels = tifffile.imread(io.BytesIO(encode_labels(regions)))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels > 0, cells)
    rows = list(csv.DictReader(io.StringIO(encode_label_table(regions, HALF).decode())))
    for row in rows:
        own = labels == int(row["label"])
        assert int(row["area_px"]) == own.sum()
        assert float(row["area_um2"]) == own.sum() / 4
        at_border = own[[0, -1]].any() or own[:, [0, -1]].any()
        assert row["touches_border"] == str(int(at_border))
    assert len(rows) == len(regions) == labels.max()


def test_more_than_65535_regions_get_labels_of_32_bits() -> None:
    dots = np.zeros((514, 514), np.bool_)
    dots[::2, ::2] = True
    labels = tifffile.imread(io.BytesIO(encode_labels(find_regions(dots))))
    assert (labels.dtype, labels.max()) == (np.dtype(np.uint32), 257 * 257)


FACTS = PlaneFacts("Phase", "2026-11-25T13:20:11", 7200.0)


def test_an_ome_tiff_keeps_pixel_size_channel_and_time(cells: NDArray[np.bool_]) -> None:
    encoded = encode_ome(cells, pixel_size=PixelSize(0.65, 0.7), facts=FACTS)
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        np.testing.assert_array_equal(file.asarray(), np.where(cells, 255, 0))
        [image] = [tifffile.xml2dict(file.ome_metadata or "")["OME"]["Image"]]
    pixels = image["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.65, "µm")
    assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeYUnit"]) == (0.7, "µm")
    assert pixels["Channel"]["Name"] == "Phase"
    assert image["AcquisitionDate"] == "2026-11-25T13:20:11"
    assert (pixels["Plane"]["DeltaT"], pixels["Plane"]["DeltaTUnit"]) == (7200.0, "s")


def test_the_same_mask_gives_the_same_bytes(cells: NDArray[np.bool_]) -> None:
    def encodings() -> list[bytes]:
        regions = find_regions(cells)
        return [encode_rois(regions), encode_labels(regions), encode_ome(cells)]

    assert encodings() == encodings()


def dots(side: int) -> NDArray[np.bool_]:
    """Make a mask of `side` x `side` regions of one pixel."""
    mask = np.zeros((2 * side, 2 * side), np.bool_)
    mask[::2, ::2] = True
    return mask


@pytest.mark.slow
def test_a_hundred_thousand_regions_are_all_exported_and_stay_small() -> None:
    exports = MaskExports(dots(320), name="a")
    encoded = {kind: exports.encode(kind) for kind in ("rois", "geojson", "labels", "labels_table")}
    with zipfile.ZipFile(io.BytesIO(encoded["rois"])) as archive:
        assert len(archive.namelist()) == 102_400
    sizes = {kind: len(content) / 102_400 for kind, content in encoded.items()}
    assert sizes["rois"] < 250  # bytes a region
    assert sizes["geojson"] < 400
    assert sizes["labels"] < 20
    assert sizes["labels_table"] < 40


@pytest.mark.parametrize("kind", ["rois", "geojson"])
def test_more_regions_than_can_be_outlined_are_refused_with_what_to_do(kind: str) -> None:
    exports = MaskExports(dots(450), name="a")
    with pytest.raises(
        ImageTooLarge, match=r"has 202,500 regions .* at most 200,000; .* `min_size_px`, or ask"
    ):
        exports.encode(kind)
    assert exports.encode("labels")


def test_a_mask_of_noise_is_refused_before_its_outlines_fill_the_memory() -> None:
    ragged = np.zeros((2, 8_000_002), np.bool_)
    ragged[0, ::2] = True
    with pytest.raises(ImageTooLarge, match="8,000,001 upright edges, the limit is 8,000,000"):
        find_regions(ragged)


def test_a_page_without_cells_gets_a_valid_file_of_every_kind() -> None:
    exports = MaskExports(np.zeros((4, 5), np.bool_), name="a", pixel_size=PixelSize(0.5, 0.5))
    with zipfile.ZipFile(io.BytesIO(exports.encode("rois"))) as archive:
        assert archive.namelist() == []
    assert json.loads(exports.encode("geojson")) == {"type": "FeatureCollection", "features": []}
    for kind in ("labels", "ome"):
        drawn = tifffile.imread(io.BytesIO(exports.encode(kind)))
        assert drawn.shape == (4, 5)
        assert not drawn.any()
    assert len(exports.encode("labels_table").splitlines()) == 1


def test_a_page_without_cells_has_empty_exports() -> None:
    regions = find_regions(np.zeros((4, 5), np.bool_))
    assert json.loads(encode_geojson(regions, name="a"))["features"] == []
    assert encode_label_table(regions).decode().splitlines() == [
        "label,area_px,left,top,width,height,touches_border"
    ]
    assert not tifffile.imread(io.BytesIO(encode_labels(regions))).any()
    assert encode_rois(regions).startswith(b"PK")
