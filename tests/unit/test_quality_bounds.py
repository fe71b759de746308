"""Bounds of the quality flags: learned from usual pages, wide enough for good ones, written and read back."""

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from small_data import GOOD

from cytomask.model import quality_bounds
from cytomask.model.quality import DESCRIPTION
from cytomask.model.quality_bounds import BOUNDS, Bounds
from cytomask.training.quality_bounds import Checked, bounds_of, flag_table, usual, with_usual, write_module

SIZE = len(DESCRIPTION)


def checked(iou: float, source: str = "made/val", change: str = "plain", **fields: Any) -> Checked:
    measures = msgspec.structs.replace(GOOD, **fields)
    return Checked(source, change, iou, measures, np.zeros(SIZE))


def test_usual_pages_have_a_deviation_of_1_in_every_direction() -> None:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(4000, SIZE)) @ rng.normal(size=(SIZE, SIZE)) + 5
    centre, whitening = usual(mixed)
    np.testing.assert_allclose(centre, mixed.mean(axis=0))
    distances = np.sqrt(np.mean(((mixed - centre) @ whitening.T) ** 2, axis=1))
    assert distances.mean() == pytest.approx(1, abs=0.15)
    assert np.quantile(distances, 0.99) < 2


def test_a_bound_spares_all_but_three_in_two_hundred_good_pages() -> None:
    good = [checked(0.9, doubt=share / 1000, sharpness=0.4 + share / 1000) for share in range(200)]
    bad = [checked(0.2, doubt=5, sharpness=0.1)]
    squashed = [checked(0.9, doubt=share / 100, sharpness=0.2, squashed=True) for share in range(200)]
    found = bounds_of([*good, *bad, *squashed], BOUNDS)
    assert found.doubt == pytest.approx(0.196)
    assert found.sharpness == pytest.approx(0.403)
    assert found.squashed_doubt == pytest.approx(1.96)
    assert sum(page.measures.doubt > found.doubt for page in good) == 3


@pytest.mark.parametrize(("squashed", "mode"), [(True, "native"), (False, "resize")])
def test_a_mode_without_a_good_page_has_no_bounds(squashed: bool, mode: str) -> None:
    with pytest.raises(ValueError, match=f"no page has an IoU of 0.85 or more in `{mode}` mode; --score"):
        bounds_of([checked(0.9, squashed=squashed), checked(0.84, squashed=not squashed)], BOUNDS)


def test_the_unusualness_is_measured_again_by_new_bounds() -> None:
    page = Checked("made/val", "plain", 0.9, checked(0.9).measures, np.full(SIZE, 3.0))
    bounds = BOUNDS._replace(centre=np.ones(SIZE), whitening=np.eye(SIZE))
    (again,) = with_usual([page], bounds)
    assert again.measures.unusualness == pytest.approx(2)


def test_the_table_counts_flags_of_bad_and_good_pages_by_source_and_change() -> None:
    pages = [
        checked(0.9),
        checked(0.9, doubt=9),
        checked(0.5, change="blur", doubt=9),
        checked(0.5, change="blur"),
        checked(0.8, source="else/val", doubt=9),
    ]
    text = flag_table(pages, BOUNDS)
    assert "| source | made/val | 4 | 1 of 2 | 1 of 2 | UNCERTAIN |" in text
    assert "| source | else/val | 1 | 0 of 0 | 0 of 0 | UNCERTAIN |" in text
    assert "| change | blur | 2 | 1 of 2 | 0 of 0 | UNCERTAIN |" in text
    assert "| all |  | 5 | 1 of 2 | 1 of 2 | UNCERTAIN |" in text


def test_bounds_are_written_as_the_module_that_serving_imports(tmp_path: Path) -> None:
    path = tmp_path / "written.py"
    path.write_text(Path(quality_bounds.__file__).read_text())
    rng = np.random.default_rng(0)
    bounds = BOUNDS._replace(
        centre=rng.normal(size=SIZE), whitening=rng.normal(size=(SIZE, SIZE)), doubt=0.123
    )
    write_module(bounds, path)
    spec = importlib.util.spec_from_file_location("written", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    read: Bounds = module.BOUNDS
    np.testing.assert_allclose(read.centre, bounds.centre, atol=1e-3)
    np.testing.assert_allclose(read.whitening, bounds.whitening, atol=1e-3)
    assert (read.doubt, read.shrinkage) == (0.123, BOUNDS.shrinkage)
