"""How COCO files are read and drawn, and what each malformed one is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as pycocotools

from cytomask import images
from cytomask.errors import GroundTruthMismatch, ImageNotNamed, UnreadableCoco
from cytomask.metrics import Mask
from cytomask.truths import coco
from cytomask.truths.coco import draw_coco, read_coco
from cytomask.truths.limits import MOST_COCO_BYTES, require_coco_size

LIVECELL = Path(__file__).parents[3] / "shared" / "data" / "livecell"
HEIGHT, WIDTH = 5, 7
URI = "s3://images/plate 1/a.tif"
SQUARE = [[1, 1, 4, 1, 4, 4, 1, 4]]


def listed(image_id: Any = 1, file_name: str = "a.tif", width: int = WIDTH) -> dict[str, Any]:
    return {"id": image_id, "file_name": file_name, "width": width, "height": HEIGHT}


def annotated(segmentation: Any, image_id: Any = 1, number: int = 7) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "segmentation": segmentation, "category_id": 1}


def file_of(images: list[Any], annotations: list[Any]) -> bytes:
    return json.dumps({"info": {}, "images": images, "annotations": annotations}).encode()


def draw(*segmentations: Any, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Mask:
    content = file_of([listed()], [annotated(each) for each in segmentations])
    return draw_coco(read_coco(content, "truth.json").part("a.tif"), "truth.json", URI, [size])


def run_lengths(mask: Mask) -> list[int]:
    """A mask as COCO's plain run lengths: column after column, background first."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return [int(each) for each in np.diff(changes, prepend=0, append=flat.size)]


def test_a_polygon_is_drawn_as_pycocotools_does() -> None:
    expected = pycocotools.decode(pycocotools.frPyObjects(SQUARE, HEIGHT, WIDTH))[..., 0] > 0
    np.testing.assert_array_equal(draw(SQUARE), expected)
    assert np.count_nonzero(expected) == 9


def test_annotations_that_overlap_are_joined() -> None:
    other = [[3, 3, 6, 3, 6, 5, 3, 5]]
    joined = draw(SQUARE, other)
    np.testing.assert_array_equal(joined, draw(SQUARE) | draw(other))
    np.testing.assert_array_equal(joined, draw(SQUARE + other))
    assert joined.dtype == np.bool_


def test_an_image_without_annotations_is_empty() -> None:
    assert not draw().any()


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_run_lengths_are_drawn_as_pycocotools_does_plain_and_compressed(mask: Mask) -> None:
    height, width = mask.shape
    compressed = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    plain = {"size": [height, width], "counts": run_lengths(mask)}
    for encoded in (compressed, plain):
        image = listed(width=width) | {"height": height}
        part = read_coco(file_of([image], [annotated(encoded)]), "truth.json").part("a.tif")
        np.testing.assert_array_equal(draw_coco(part, "truth.json", URI, [mask.shape]), mask)


@given(st.text(max_size=20))
def test_any_text_for_run_lengths_is_drawn_or_refused(text: str) -> None:
    try:
        assert draw({"size": [HEIGHT, WIDTH], "counts": text}).shape == (HEIGHT, WIDTH)
    except UnreadableCoco as error:
        assert "annotation 7 of a.tif in truth.json" in str(error)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (None, "neither polygons nor a run-length encoding"),
        ("square", "neither polygons nor a run-length encoding"),
        ([1, 1, 4, 1, 4, 4], "neither polygons nor a run-length encoding"),
        ([["a", 1, 4, 1, 4, 4]], "neither polygons nor a run-length encoding"),
        ([], "has no polygon"),
        ([[]], "a polygon of 0 numbers"),
        ([[1, 1, 4, 1]], "a polygon of 4 numbers"),  # pycocotools takes it for a box
        ([[1, 1, 4, 1, 4, 4, 1]], "a polygon of 7 numbers"),
        ([[1, 1, 1e30, 1, 4, 4]], "x = 1e+30, y = 1, far off the image's 7 x 5 pixels"),
        ([[1, 1, 4, -1e9, 4, 4]], "x = 4, y = -1e+09, far off"),
        ({"size": [HEIGHT, WIDTH], "counts": [36]}, "7 x 5 pixels, 36 in sum, and the image has 7 x 5"),
        ({"size": [WIDTH, HEIGHT], "counts": [35]}, "5 x 7 pixels, 35 in sum, and the image has 7 x 5"),
        ({"size": [HEIGHT, WIDTH], "counts": []}, "7 x 5 pixels, 0 in sum"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, 36]}, "neither polygons nor a run-length encoding"),
        ({"size": [HEIGHT, WIDTH], "counts": "P"}, "cut short"),
        ({"size": [HEIGHT, WIDTH], "counts": "S1~"}, "damaged at the letter '~'"),
        ({"size": [HEIGHT, WIDTH], "counts": "P" * 10_000}, "damaged at the letter 'P'"),
        ({"counts": [35]}, "neither polygons nor a run-length encoding"),
    ],
)
def test_a_malformed_annotation_is_refused_by_its_name(segmentation: Any, said: str) -> None:
    with pytest.raises(UnreadableCoco) as refused:
        draw(SQUARE, segmentation)
    assert "annotation 7 of a.tif in truth.json" in str(refused.value)
    assert said in str(refused.value)


def test_a_polygon_may_reach_over_the_page_s_edge() -> None:
    assert draw([[-2, -2, 9, -2, 9, 7, -2, 7]]).all()


def test_an_outline_past_the_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "LONGEST_OUTLINE", 11)
    with pytest.raises(UnreadableCoco, match="an outline of 12 pixels, the limit is 11;"):
        draw(SQUARE)
    monkeypatch.setattr(coco, "MOST_OUTLINE_BYTES", 20)
    with pytest.raises(UnreadableCoco, match="MiB of coordinates"):
        draw(SQUARE)


def test_another_size_is_refused_with_both() -> None:
    with pytest.raises(GroundTruthMismatch, match=r"a\.tif is 7 x 5 pixels and the mask 5 x 7;"):
        draw(SQUARE, size=(WIDTH, HEIGHT))


def test_a_stack_is_refused() -> None:
    part = read_coco(file_of([listed()], []), "truth.json").part("a.tif")
    with pytest.raises(GroundTruthMismatch, match=r"one page of a\.tif and the mask has 2;"):
        draw_coco(part, "truth.json", URI, [(HEIGHT, WIDTH)] * 2)


def test_an_image_listed_twice_has_the_annotations_of_both_entries() -> None:
    other = [[3, 3, 6, 3, 6, 5, 3, 5]]
    content = file_of([listed(1), listed(2), listed(2)], [annotated(SQUARE), annotated(other, 2)])
    file = read_coco(content, "truth.json")
    drawn = draw_coco(file.part("a.tif"), "truth.json", URI, [(HEIGHT, WIDTH)])
    np.testing.assert_array_equal(drawn, draw(SQUARE, other))
    assert (file.images, file.annotations, file.annotations_without_image) == (1, 2, 0)


def test_annotations_with_the_same_id_all_count() -> None:
    other = [[3, 3, 6, 3, 6, 5, 3, 5]]
    content = file_of([listed()], [annotated(SQUARE, number=1), annotated(other, number=1)])
    part = read_coco(content, "truth.json").part("a.tif")
    drawn = draw_coco(part, "truth.json", URI, [(HEIGHT, WIDTH)])
    np.testing.assert_array_equal(drawn, draw(SQUARE, other))


def test_of_images_with_one_name_the_folders_decide() -> None:
    content = file_of([listed(1, "plate 1/a.tif"), listed(2, "plate 2/a.tif")], [annotated(SQUARE, 2)])
    part = read_coco(content, "truth.json").part("a.tif")
    drawn = [
        draw_coco(part, "truth.json", f"s3://images/{plate}/a.tif", [(HEIGHT, WIDTH)]).any()
        for plate in ("plate 1", "plate 2")
    ]
    assert drawn == [False, True]
    with pytest.raises(
        ImageNotNamed, match=r"several images called a\.tif, and the folders of s3://images/a"
    ):
        draw_coco(part, "truth.json", "s3://images/a.tif", [(HEIGHT, WIDTH)])


def test_a_folder_of_the_file_s_own_does_not_matter_where_the_name_is_plain() -> None:
    content = file_of([listed(1, "livecell_test_images/A172/a.tif")], [annotated(SQUARE)])
    part = read_coco(content, "truth.json").part("a.tif")
    assert draw_coco(part, "truth.json", URI, [(HEIGHT, WIDTH)]).any()


def test_annotations_of_images_that_are_not_listed_are_counted() -> None:
    file = read_coco(file_of([listed()], [annotated(SQUARE, 8), annotated(SQUARE, "1")]), "truth.json")
    assert (file.images, file.annotations, file.annotations_without_image) == (1, 2, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no COCO file"),
        (b"\x89PNG", "is no COCO file"),
        (b"[" * 100_000, "is no COCO file"),
        (b"[]", "is no COCO file"),
        (b"{}", "images"),
        (b'{"images": []}', "annotations"),
        (file_of([], []), "lists no images"),
        (file_of([{"id": 1, "file_name": "a.tif"}], []), "width"),
        (file_of([listed(width=0)], []), "width"),
        (file_of([listed(file_name="")], []), "file_name"),
        (file_of([listed(file_name="/")], []), "file_name is no file's"),
        (file_of([listed(file_name="a" * 256)], []), "file_name is no file's"),
        (file_of([listed()], [{"image_id": 1}]), "segmentation"),
        (file_of([listed()], [{"segmentation": SQUARE}]), "image_id"),
        (file_of([listed(1, "a.tif"), listed(1, "b.tif")], []), "the id 1 to a.tif and to b.tif"),
        (file_of([listed()], [annotated(SQUARE)])[:-9], "is no COCO file"),
    ],
)
def test_a_file_that_is_not_coco_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(UnreadableCoco) as refused:
        read_coco(content, "s3://truths/truth.json")
    assert "s3://truths/truth.json" in str(refused.value)
    assert said in str(refused.value)


def test_a_file_past_the_limit_is_refused_by_its_length() -> None:
    require_coco_size(MOST_COCO_BYTES, "truth.json")
    with pytest.raises(UnreadableCoco, match=r"truth\.json has 300 MiB, the limit is 256 MiB; split it"):
        require_coco_size(300 * 2**20, "truth.json")


@pytest.mark.skipif(not LIVECELL.is_dir(), reason="LIVECell's images are not on this machine")
@pytest.mark.parametrize("split", ["train", "test"])
def test_livecell_s_own_annotations_draw_its_masks(split: str) -> None:
    file = read_coco((LIVECELL / f"livecell_coco_{split}.json").read_bytes(), split)
    assert file.annotations_without_image == 0
    for name in file.by_name:
        (mask,) = (LIVECELL / "masks").glob(f"{Path(name).stem}*")
        cells = images.read_page(mask).pixels > 0
        np.testing.assert_array_equal(
            draw_coco(file.part(name), split, f"s3://images/{name}", [(520, 704)]), cells
        )
