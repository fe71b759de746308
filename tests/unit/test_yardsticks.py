"""Measures besides the IoU, on networks with known masks."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cytomask.model.predictor import Mode, Prediction
from cytomask.samples.degradations import DEGRADATIONS, HARMLESS
from cytomask.samples.empty import KINDS
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.yardsticks import (
    Yardsticks,
    found_share,
    neurite_pages,
    outlines,
    phantom_confluence,
    robustness,
    yardstick_tables,
)


class Brightest:
    """Calls pixels above the middle of a page's range cell."""

    def predict(self, page: NDArray[np.generic], _: Mode = "native") -> Prediction:
        low, high = np.percentile(page.astype(float), (1, 99))
        mask = page.astype(float) > (low + high) / 2
        return Prediction(mask.astype(np.float32), mask, None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a source of one page: two bright somata, and an equally bright neurite that is not marked."""
    page, truth = np.full((120, 160), 40, np.uint8), np.zeros((120, 160), np.uint8)
    for row, column in ((30, 30), (80, 120)):
        truth[row : row + 12, column : column + 12] = 255
    page[truth > 0] = 200
    page[60:62, 10:150] = 200
    Image.fromarray(page).save(tmp_path / "a.png")
    Image.fromarray(truth).save(tmp_path / "m.png")
    (tmp_path / "index.csv").write_text("source,split,image,mask\nneurons,val,a.png,m.png")
    return tmp_path


def test_phantoms_are_counted_by_kind_and_over_all() -> None:
    found = phantom_confluence(Brightest(), "native", range(len(KINDS)))  # type: ignore[arg-type]  # a stand-in
    assert list(found) == [*KINDS, "all"]
    assert found["all"].pages == len(KINDS)
    assert found["all"].worst == max(row.worst for row in found.values())
    # Half of a page of noise is brighter than its middle.
    assert found["sensor"].mean == pytest.approx(0.5, abs=0.1)


def test_neurites_are_not_false_area_and_somata_are_found(data: Path) -> None:
    (page,) = neurite_pages(Brightest(), "native", data, "neurons/val")  # type: ignore[arg-type]
    assert page.somata == pytest.approx(288 / 19200, abs=1e-4)
    assert page.confluence == pytest.approx((288 + 2 * 140) / 19200, abs=1e-4)
    assert (page.false_area, page.recall) == (0.0, 1.0)


def test_a_soma_is_found_if_half_of_it_is() -> None:
    cells = np.zeros((20, 60), np.bool_)
    cells[5:15, 5:15] = cells[5:15, 25:35] = cells[5:15, 45:55] = True
    mask = np.zeros_like(cells)
    mask[5:15, 5:10] = mask[5:15, 25:29] = mask[0:20, 44:60] = True
    assert found_share(mask, cells) == pytest.approx(2 / 3)
    assert found_share(mask, np.zeros_like(cells)) == 1.0


def test_masks_of_turned_and_covered_pages_are_compared_in_place(data: Path) -> None:
    found = robustness(Brightest(), "native", data, ["neurons/val"])  # type: ignore[arg-type]
    assert list(found) == list(DEGRADATIONS)
    for name in ("turned by 90°", "turned by 180°", "16 bit", "8 bit", "dimmed to half", "scale bar"):
        assert found[name].worst == 1.0, name


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_mask_of_a_degraded_page_maps_back_to_the_plain_page(name: str) -> None:
    page = phase_contrast_field(2, 90, 130).pixels
    untouched = page.copy()
    degraded = DEGRADATIONS[name](page, np.random.default_rng(0))
    assert np.array_equal(page, untouched)
    assert degraded.seen.shape == page.shape
    assert degraded.seen.mean() > 0.5
    mask = degraded.page > np.median(degraded.page)
    assert degraded.back(mask).shape == page.shape
    if name in HARMLESS and name not in ("fill value", "vignette"):  # both move the median
        agreed = degraded.back(mask) == (page > np.median(page))
        assert agreed[degraded.seen].mean() > 0.85


def test_the_tables_name_every_kind_and_degradation(data: Path) -> None:
    stand_in = Brightest()
    measured = Yardsticks(
        phantom_confluence(stand_in, "native", range(2)),  # type: ignore[arg-type]
        neurite_pages(stand_in, "native", data, "neurons/val"),  # type: ignore[arg-type]
        robustness(stand_in, "native", data, ["neurons/val"]),  # type: ignore[arg-type]
        {"neurons/val": outlines(stand_in, "native", data, "neurons/val")},  # type: ignore[arg-type]
    )
    text = yardstick_tables({"native": measured})
    for name in ("sensor", "grain", "all", *DEGRADATIONS):
        assert f"| {name} |" in text
    assert "| a | 0.015 | 0.030, 0.000, 1.00 |" in text  # the confluence of the neurite page
    assert "| neurons/val | 2 | 0.0 | " in text


def test_a_displaced_ground_truth_is_noticed(tmp_path: Path) -> None:
    """Cells lie 3 pixels below and 4 to the right of where the truth has them; one touches the border."""
    page, truth = np.full((120, 160), 40, np.uint8), np.zeros((120, 160), np.uint8)
    for row, column in ((30, 30), (80, 120), (0, 60)):
        truth[row : row + 20, column : column + 20] = 255
        page[row + 3 : row + 23, column + 4 : column + 24] = 200
    Image.fromarray(page).save(tmp_path / "a.png")
    Image.fromarray(truth).save(tmp_path / "m.png")
    (tmp_path / "index.csv").write_text("source,split,image,mask\ncells,val,a.png,m.png")
    found = outlines(Brightest(), "native", tmp_path, "cells/val")  # type: ignore[arg-type]
    assert (found.regions, found.displacement) == (2, 5.0)
    assert sorted(found.displaced_iou, reverse=True) == found.displaced_iou
    assert 0.8 < found.displaced_iou[0] < 1


def test_a_ground_truth_without_cells_has_no_outline(tmp_path: Path) -> None:
    for name, value in (("a", 40), ("m", 0)):
        Image.fromarray(np.full((60, 60), value, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "index.csv").write_text("source,split,image,mask\ncells,val,a.png,m.png")
    found = outlines(Brightest(), "native", tmp_path, "cells/val")  # type: ignore[arg-type]
    assert (found.regions, found.displacement, found.displaced_iou) == (0, 0.0, [1.0, 1.0, 1.0])
