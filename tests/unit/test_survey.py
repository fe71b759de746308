"""Images and ground truths are measured, and copies are found."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_images import DATA, needs
from small_data import add, look_at, picture, square

from cytomask.training.survey import annotated_areas, cell_sizes, component_areas, duplicates


def test_looking_at_a_page_measures_image_and_mask(tmp_path: Path) -> None:
    pixels = np.full((30, 40), 4095, np.uint16)
    pixels[:15] = 0
    pixels[0, :24] = 65535  # 24 of 1,200 pixels
    add(tmp_path, "ours/train", "A172_Phase_A1_1_00d00h00m_1", pixels, square(6))
    [seen] = look_at(tmp_path, "ours/train")
    assert (seen.shape, seen.kind, seen.line) == ((30, 40), "uint16", "A172")
    assert seen.confluence == 36 / 1200
    assert seen.areas.tolist() == [36]
    assert seen.saturated == 24 / 1200
    assert (seen.dark, seen.bright) == (0, 1)
    assert seen.middle == pytest.approx(4095 / 65535)


def test_floats_are_measured_by_their_own_maximum(tmp_path: Path) -> None:
    add(tmp_path, "ours/train", "a", np.linspace(0, 500, 1200, dtype=np.float32).reshape(30, 40), square(6))
    [seen] = look_at(tmp_path, "ours/train")
    assert (seen.kind, seen.saturated) == ("float32", 0)
    assert (seen.dark, seen.middle, seen.bright) == pytest.approx((0.01, 0.5, 0.99), abs=1e-3)


def test_colours_are_told_from_grey(tmp_path: Path) -> None:
    for folder in ("i", "m"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.full((30, 40, 3), 255, np.uint8)).save(tmp_path / "i" / "a.png")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "m" / "a.png")
    [seen] = look_at(tmp_path, "pairs:i:m")
    assert seen.kind == "uint8 RGB"
    assert seen.saturated == 1
    assert seen.line == "not named"


def test_cells_that_touch_at_a_corner_are_one_component() -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[1:3, 1:3] = mask[3:5, 3:5] = True
    mask[8, 8] = True
    assert sorted(component_areas(mask).tolist()) == [1, 8]
    assert component_areas(np.zeros((4, 4), np.bool_)).tolist() == []


def test_annotations_are_measured_one_by_one_even_where_they_overlap(tmp_path: Path) -> None:
    def box(left: int, top: int, side: int) -> list[list[int]]:
        return [[left, top, left + side, top, left + side, top + side, left, top + side]]

    runs = {"counts": [0, 5, 1195], "size": [30, 40]}  # down the first column
    annotations = [(1, box(0, 0, 10)), (1, box(5, 5, 10)), (2, box(0, 0, 4) + box(20, 20, 4)), (2, runs)]
    content = {
        "images": [{"id": at, "file_name": f"sub/{at}.tif", "height": 30, "width": 40} for at in (1, 2)],
        "annotations": {
            str(at): {"id": at, "image_id": image, "segmentation": outline}
            for at, (image, outline) in enumerate(annotations)
        },
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    areas = annotated_areas(tmp_path / "coco.json", {"1.tif": "A172", "2.tif": "BV2"})
    assert areas["A172"].tolist() == [100, 100]
    assert areas["BV2"].tolist() == [32, 5]


def test_an_image_in_two_sources_is_a_leak_by_pixels_and_by_name(tmp_path: Path) -> None:
    add(tmp_path, "ours/train", "a", picture(1), square(5))
    add(tmp_path, "ours/train", "again", picture(9), square(5))
    add(tmp_path, "ours/train", "and_again", picture(9), square(5))
    add(tmp_path, "ours/train", "c", picture(2), square(5))
    add(tmp_path, "ours/train", "alone", picture(3), square(5))
    add(tmp_path, "ours/val", "renamed", picture(1), square(6))
    add(tmp_path, "ours/val", "c", picture(4), square(5))
    found = duplicates(look_at(tmp_path, "ours/train", "ours/val"))
    assert [(how, [(one.source, one.sample.name) for one in same]) for how, same in found] == [
        ("same pixels, different masks", [("ours/train", "a"), ("ours/val", "renamed")]),
        ("same name, different pixels", [("ours/train", "c"), ("ours/val", "c")]),
        ("same pixels, same mask", [("ours/train", "again"), ("ours/train", "and_again")]),
    ]


def test_the_same_values_of_another_type_or_shape_are_another_image(tmp_path: Path) -> None:
    add(tmp_path, "ours/train", "a", np.ones((4, 6), np.uint8), square(2, (4, 6)))
    add(tmp_path, "ours/train", "b", np.ones((6, 4), np.uint8), square(2, (6, 4)))
    add(tmp_path, "ours/train", "c", np.ones((4, 3), np.uint16), square(2, (4, 3)))
    assert duplicates(look_at(tmp_path, "ours/train")) == []


@needs(DATA / "index.csv")
def test_livecell_read_by_its_annotations_is_the_same_as_by_its_masks() -> None:
    coco = "coco:livecell/livecell_coco_train.json:livecell/images"
    seen = look_at(DATA, "livecell/train", coco)
    assert [how for how, _ in duplicates(seen)] == ["same pixels, same mask"] * 5
    sizes = cell_sizes(seen, DATA)
    counts = {line: len(areas) for (line, source), areas in sizes.items() if source == coco}
    assert counts == {"BT474": 351, "Huh7": 73, "MCF7": 819}
    assert len(sizes["MCF7", "livecell/train"]) == 67  # touching cells are one component
