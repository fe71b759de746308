"""COCO files are read and drawn; each malformed one gets its message."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as pycocotools
from real_images import LIVECELL, needs

from cytomask import images
from cytomask.errors import GroundTruthMismatch, NothingDrawn, UnreadableCoco
from cytomask.metrics import Mask
from cytomask.truths import coco_format, outlines
from cytomask.truths.coco import MOST_IMAGES, read_coco, read_part, require_few_images
from cytomask.truths.limits import MOST_COCO_BYTES, require_coco_size

HEIGHT, WIDTH = 5, 7
URI = "s3://images/plate 1/a.tif"
SQUARE = [[1, 1, 4, 1, 4, 4, 1, 4]]
RISE, FALL = "0PPPPPPP8", "0PPPPPPPH"  # 0, and 2**38 more or less than the run before the last
# Runs that rise to 2**51 and fall to 35. In integers of 64 bits they add up to the 35 pixels of the page.
RUNS_PAST_64_BITS = {"size": [HEIGHT, WIDTH], "counts": "00" + RISE * 2**13 + FALL * 2**13 + "0S1"}


def listed(image_id: Any = 1, file_name: str = "a.tif", width: int = WIDTH) -> dict[str, Any]:
    return {"id": image_id, "file_name": file_name, "width": width, "height": HEIGHT}


def annotated(segmentation: Any, image_id: Any = 1, number: int = 7) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "segmentation": segmentation, "category_id": 1}


def file_of(images: list[Any], annotations: list[Any]) -> bytes:
    return json.dumps({"info": {}, "images": images, "annotations": annotations}).encode()


def draw(*segmentations: Any, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Mask:
    other = listed(2, "other.tif")
    content = file_of([listed(), other], [annotated(SQUARE, 2), *(annotated(each) for each in segmentations)])
    whole = read_coco(content, "truth.json")
    drawn = whole.draw("a.tif", [size])
    part = read_part(whole.part("a.tif"), "truth.json").draw("a.tif", [size])
    np.testing.assert_array_equal(part, drawn)
    return drawn


def run_lengths(mask: Mask) -> list[int]:
    """Encode a mask as COCO's plain run lengths: column after column, background first."""
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


def some_cells(mask: Mask) -> bool:
    return bool(mask.any())


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(some_cells))
def test_run_lengths_are_drawn_as_pycocotools_does_plain_and_compressed(mask: Mask) -> None:
    height, width = mask.shape
    compressed = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    plain = {"size": [height, width], "counts": run_lengths(mask)}
    floats = {"size": [float(height), float(width)], "counts": [float(each) for each in run_lengths(mask)]}
    for encoded in (compressed, plain, floats):
        image = listed(width=width) | {"height": height}
        coco = read_coco(file_of([image], [annotated(encoded)]), "truth.json")
        np.testing.assert_array_equal(coco.draw("a.tif", [mask.shape]), mask)
        assert coco.areas("a.tif") == [np.count_nonzero(mask)]


corner = st.tuples(st.floats(-7, 14), st.floats(-5, 10))
polygon = st.lists(corner, min_size=3, max_size=9).map(
    lambda points: [float(x) for point in points for x in point]
)


@given(st.lists(st.lists(polygon, min_size=1, max_size=3), min_size=1, max_size=4))
def test_polygons_are_drawn_as_pycocotools_does_one_by_one_or_together(
    shapes: list[list[list[float]]],
) -> None:
    low, high = outlines.LEAST_SHARE, outlines.MOST_SHARE
    usable = [shape for shape in shapes if all(min(each) < low or max(each) > high for each in shape)]
    assume(usable)
    runs = [pycocotools.frPyObjects(shape, HEIGHT, WIDTH) for shape in usable]
    expected = [pycocotools.decode(pycocotools.merge(each)) > 0 for each in runs]
    coco = read_coco(file_of([listed()], [annotated(shape) for shape in usable]), "truth.json")
    assert coco.areas("a.tif") == [np.count_nonzero(each) for each in expected]
    if not any(each.any() for each in expected):
        return
    np.testing.assert_array_equal(draw(*usable), np.any(expected, axis=0))


@given(st.lists(st.binary(max_size=12), max_size=4))
def test_any_segmentation_is_drawn_or_refused_by_name(texts: list[bytes]) -> None:
    content = file_of([listed()], [annotated(None)]).replace(b"null", b"[[" + b"],[".join(texts) + b"]]")
    try:
        assert read_coco(content, "truth.json").draw("a.tif", [(HEIGHT, WIDTH)]).shape == (HEIGHT, WIDTH)
    except (UnreadableCoco, NothingDrawn) as error:
        assert "truth.json" in str(error)


@given(st.text(max_size=20))
def test_any_text_for_run_lengths_is_drawn_or_refused(text: str) -> None:
    try:
        assert draw({"size": [HEIGHT, WIDTH], "counts": text}).shape == (HEIGHT, WIDTH)
    except UnreadableCoco as error:
        assert "annotation 7 of a.tif in truth.json" in str(error)
    except NothingDrawn as error:
        assert "truth.json has 1 annotations of a.tif" in str(error)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (None, "has no segmentation; outline its cell or remove it"),
        ("square", "neither polygons nor run lengths"),
        ([1, 1, 4, 1, 4, 4], "neither polygons nor run lengths"),
        ([["a", 1, 4, 1, 4, 4]], "neither polygons nor run lengths"),
        ([], "has no polygon"),
        ([[]], "a polygon of 0 numbers"),
        ([[1, 1, 4, 1]], "a polygon of 4 numbers"),  # pycocotools takes it for a box
        ([[1, 1, 4, 1, 4, 4, 1]], "a polygon of 7 numbers"),
        ([[1, 1, 1e30, 1, 4, 4]], "x = 1e+30, y = 1, far off the image's 7 x 5 pixels"),
        ([[1, 1, 4, -1e9, 4, 4]], "x = 4, y = -1e+09, far off"),
        (
            {"size": [HEIGHT, WIDTH], "counts": [36]},
            "7 x 5 pixels that add up to 36, but the image has 7 x 5",
        ),
        (
            {"size": [WIDTH, HEIGHT], "counts": [35]},
            "5 x 7 pixels that add up to 35, but the image has 7 x 5",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": []}, "7 x 5 pixels that add up to 0"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, 36]}, "run lengths for 7 x 5 pixels that add up to 35"),
        ({"size": [HEIGHT, WIDTH], "counts": [0.5, 34.5]}, "not whole numbers"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "7 x 5 pixels that add up to 0"),
        (
            [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]],
            "coordinates from 0 to 1, which draw nothing on the image's 7 x 5",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": "P"}, "cut short"),
        ({"size": [HEIGHT, WIDTH], "counts": "S1~"}, "damaged at '~'"),
        ({"size": [HEIGHT, WIDTH], "counts": "P" * 10_000 + "0"}, "one is too long"),
        ({"counts": [35]}, "neither polygons nor run lengths"),
        (RUNS_PAST_64_BITS, "add up to 18446744073709551616, but the image has 7 x 5"),
    ],
)
def test_a_malformed_annotation_is_refused_by_its_name(segmentation: Any, said: str) -> None:
    with pytest.raises(UnreadableCoco) as refused:
        draw(SQUARE, segmentation)
    assert "annotation 7 of a.tif in truth.json" in str(refused.value)
    assert said in str(refused.value)


def test_a_polygon_may_reach_over_the_page_s_edge() -> None:
    assert draw([[-2, -2, 9, -2, 9, 7, -2, 7]]).all()


@pytest.mark.parametrize(
    ("name", "limit", "said"),
    [
        (
            "LONGEST_OUTLINE",
            11,
            "annotation 7 of a.tif in truth.json has an outline of 12 pixels; the limit is 11:",
        ),
        ("LONGEST_OUTLINES", 23, r"more than 200000 polygons or 23 pixels of outline"),
        ("MOST_OUTLINES", 1, "a.tif in truth.json has 2 annotations of 0 MiB; the limits are 1 and 64 MiB"),
        ("MOST_BYTES", 40, "has 2 annotations of 0 MiB"),
        ("MOST_OUTLINE_BYTES", 20, "MiB of coordinates"),
    ],
)
def test_outlines_that_cost_too_much_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int, said: str
) -> None:
    monkeypatch.setattr(outlines, name, limit)
    with pytest.raises(UnreadableCoco, match=said):
        draw(SQUARE, SQUARE)


def test_too_many_annotations_are_refused_before_each_gets_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "MOST_OUTLINES", 20_000)
    name = "n" * 200 + ".tif"
    coco = read_coco(file_of([listed(file_name=name)], [annotated(SQUARE)] * 20_001), "truth.json")
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableCoco, match="20001 annotations"):
            coco.draw(name, [(HEIGHT, WIDTH)])
        assert tracemalloc.get_traced_memory()[1] < 3 * images.MEBI
    finally:
        tracemalloc.stop()


def test_outlines_are_drawn_alike_in_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.eye(HEIGHT, WIDTH, dtype=np.bool_)
    shapes = [SQUARE, {"size": [HEIGHT, WIDTH], "counts": run_lengths(mask)}, [[3, 3, 6, 3, 6, 5, 3, 5]]]
    together = draw(*shapes)
    monkeypatch.setattr(outlines, "BATCH_BYTES", 1)
    np.testing.assert_array_equal(draw(*shapes), together)


def test_another_size_is_refused_with_both() -> None:
    with pytest.raises(GroundTruthMismatch, match=r"a\.tif is 7 x 5 pixels, and the image is 5 x 7;"):
        draw(SQUARE, size=(WIDTH, HEIGHT))


def test_a_stack_is_refused() -> None:
    coco = read_coco(file_of([listed()], [annotated(SQUARE)]), "truth.json")
    with pytest.raises(GroundTruthMismatch, match=r"one page of a\.tif and the image has 2;"):
        coco.draw("a.tif", [(HEIGHT, WIDTH)] * 2)


def test_an_image_listed_twice_has_the_annotations_of_both_entries() -> None:
    other = [[3, 3, 6, 3, 6, 5, 3, 5]]
    content = file_of([listed(1), listed(2), listed(2)], [annotated(SQUARE), annotated(other, 2)])
    coco = read_coco(content, "truth.json")
    np.testing.assert_array_equal(coco.draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE, other))
    assert (coco.images, coco.annotations, coco.annotations_without_image) == (1, 2, 0)


def test_annotations_with_the_same_id_all_count() -> None:
    other = [[3, 3, 6, 3, 6, 5, 3, 5]]
    content = file_of([listed()], [annotated(SQUARE, number=1), annotated(other, number=1)])
    drawn = read_coco(content, "truth.json").draw("a.tif", [(HEIGHT, WIDTH)])
    np.testing.assert_array_equal(drawn, draw(SQUARE, other))


def test_images_of_one_base_name_are_told_apart_by_their_folders() -> None:
    content = file_of([listed(1, "plate 1/a.tif"), listed(2, "plate 2\\a.tif")], [annotated(SQUARE, 2)])
    coco = read_coco(content, "truth.json")
    assert coco.by_base == {"a.tif": ["plate 1/a.tif", "plate 2/a.tif"]}
    part = read_part(coco.part("a.tif"), "truth.json")
    for read in (coco, part):
        drawn = [read.draw(name, [(HEIGHT, WIDTH)]).any() for name in coco.by_base["a.tif"]]
        assert drawn == [False, True]


@pytest.mark.parametrize(
    ("image_id", "of"),
    [(1, "1"), ("1", 1), (1.0, 1), ("1.0", 1), (" 1", 1), ("a", "a"), (-3, "-3"), ("01", "01")],
)
def test_ids_of_two_types_are_the_same_id(image_id: Any, of: Any) -> None:
    coco = read_coco(file_of([listed(image_id)], [annotated(SQUARE, of)]), "truth.json")
    assert coco.annotations_without_image == 0
    np.testing.assert_array_equal(coco.draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


def test_annotations_of_images_that_are_not_listed_are_counted() -> None:
    content = file_of([listed()], [annotated(SQUARE, 8), annotated(SQUARE, "01"), annotated(SQUARE, 1), {}])
    coco = read_coco(content, "truth.json")
    assert (coco.images, coco.annotations, coco.annotations_without_image) == (1, 4, 3)
    np.testing.assert_array_equal(coco.draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


def test_a_file_of_which_no_annotation_has_an_image_is_refused() -> None:
    content = file_of([listed("x")], [annotated(SQUARE, 8), annotated(SQUARE, 9)])
    with pytest.raises(UnreadableCoco, match=r"none of the 2 annotations of truth\.json belongs to an image"):
        read_coco(content, "truth.json")


def test_an_image_whose_annotations_may_be_lost_is_not_an_empty_one() -> None:
    content = file_of([listed(1), listed(2, "b.tif")], [annotated(SQUARE), annotated(SQUARE, 3)])
    coco = read_coco(content, "truth.json")
    for read in (coco, read_part(coco.part("b.tif"), "truth.json")):
        with pytest.raises(
            NothingDrawn, match=r"no annotation of b\.tif, and 1 annotations of images that it"
        ):
            read.draw("b.tif", [(HEIGHT, WIDTH)])
    assert coco.draw("a.tif", [(HEIGHT, WIDTH)]).any()


def test_annotations_that_cover_no_pixel_are_refused() -> None:
    with pytest.raises(NothingDrawn, match=r"2 annotations of a\.tif and none covers a pixel of its 7 x 5"):
        draw([[8, 1, 12, 1, 12, 4]], {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_accepted(encoding: str) -> None:
    content = file_of([listed()], [annotated(SQUARE)]).decode().encode(encoding)
    np.testing.assert_array_equal(read_coco(content, "a").draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


def test_numbers_that_python_writes_and_json_does_not_know_are_passed_over() -> None:
    odd = annotated(SQUARE) | {"area": float("nan"), "bbox": [float("-inf"), 1, 2, 3], "note": 'NaN, "NaN"'}
    content = file_of([listed()], [odd])
    assert b"NaN" in content
    np.testing.assert_array_equal(read_coco(content, "a").draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


def test_millions_of_nans_do_not_multiply_the_file_s_memory() -> None:
    content = file_of([listed()], [annotated(SQUARE) | {"area": [float("nan")] * 100_000}])
    tracemalloc.start()
    try:
        read_coco(content, "truth.json")
        assert tracemalloc.get_traced_memory()[1] < 5 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("width", [7.0, "7", "7.0"])
def test_a_width_of_another_type_is_read(width: Any) -> None:
    coco = read_coco(file_of([listed(width=width)], [annotated(SQUARE)]), "truth.json")
    np.testing.assert_array_equal(coco.draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


def test_images_and_annotations_by_id_are_read_as_lists_are() -> None:
    content = json.dumps({"images": {"1": listed()}, "annotations": {"7": annotated(SQUARE)}}).encode()
    np.testing.assert_array_equal(read_coco(content, "a").draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


def test_images_keyed_by_id_need_no_id_of_their_own() -> None:
    image = {key: value for key, value in listed().items() if key != "id"}
    content = json.dumps({"images": {"1": image}, "annotations": {"7": annotated(SQUARE)}}).encode()
    np.testing.assert_array_equal(read_coco(content, "a").draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


@pytest.mark.parametrize("place", ['"file_name": "b', '"counts": "'])
def test_a_letter_that_is_not_utf_8_rejects_its_image_and_no_other(place: str) -> None:
    runs = {"size": [HEIGHT, WIDTH], "counts": "0"}
    content = file_of([listed(), listed(2, "b.tif")], [annotated(SQUARE), annotated(runs, 2)])
    assert place.encode() in content
    coco = read_coco(content.replace(place.encode(), place.encode() + b"\xe4"), "truth.json")
    (name,) = coco.entries.keys() - {"a.tif"}
    for read in (coco, read_part(coco.part(name), "truth.json")):
        with pytest.raises(UnreadableCoco, match=r"UTF-8|utf-8"):
            read.draw(name, [(HEIGHT, WIDTH)])
    np.testing.assert_array_equal(coco.draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))


@given(st.dictionaries(st.binary(min_size=1, max_size=3), st.none(), min_size=1, max_size=4), st.data())
def test_ids_of_any_bytes_stay_apart(ids: dict[bytes, None], data: st.DataObject) -> None:
    quoted = [json.dumps(each.decode("latin-1"), ensure_ascii=False).encode("latin-1") for each in ids]
    drawn = data.draw(st.sampled_from(range(len(quoted))))
    images_listed = [listed(f"<{at}>", f"{at}.tif") for at in range(len(quoted))]
    content = file_of(images_listed, [annotated(SQUARE, f"<{drawn}>")])
    for at, text in enumerate(quoted):
        content = content.replace(f'"<{at}>"'.encode(), text)
    try:
        coco = read_coco(content, "truth.json")
    except UnreadableCoco:
        return
    filled = {name for name, entries in coco.entries.items() if coco.by_image.get(entries[0].id)}
    assert filled <= {f"{drawn}.tif"}


@pytest.mark.parametrize(
    "segmentations",
    [
        [[[0.2, 0.1, 1.003, 0.1, 1.003, 0.7, 0.2, 0.7]]],
        [[[-0.002, 0.1, 0.6, 0.1, 0.6, 0.7, -0.002, 0.7]]],
        [[[0.0, 0.0, 1.0001, 0.0, 1.0001, 1.0001]]],
        [[[-0.5, -0.5, 0.5, -0.5, 0.5, 0.5, -0.5, 0.5]]],
        [[[0.2, 0.1, 1.9, 0.1, 1.9, 1.7, 0.2, 1.7]], [[0.5, 0.5, 0.7, 0.5, 1.2, 0.9]]],
        [[[20, 20, 70, 20, 70, 60]], [[0.2, 0.1, 1.003, 0.1, 1.003, 0.7]]],
    ],
)
def test_shares_of_the_page_are_refused_even_if_they_overshoot(segmentations: list[Any]) -> None:
    image = listed() | {"width": 128, "height": 96}
    coco = read_coco(file_of([image], [annotated(each) for each in segmentations]), "truth.json")
    with pytest.raises(UnreadableCoco, match="give coordinates in pixels"):
        coco.draw("a.tif", [(96, 128)])


def test_a_cell_of_one_pixel_in_the_corner_counts_beside_others() -> None:
    corner = [[0, 0, 1.5, 0, 1.5, 1.5, 0, 1.5]]
    image = listed() | {"width": 128, "height": 96}
    content = file_of([image], [annotated(corner), annotated([[20, 20, 70, 20, 70, 60]])])
    assert read_coco(content, "truth.json").draw("a.tif", [(96, 128)])[0, 0]


BAD_ANNOTATIONS: list[Any] = [
    {"id": 2, "image_id": 2, "bbox": [1, 2, 3, 4]},
    {"id": 2, "image_id": 2, "segmentation": []},
    {"id": 2, "image_id": 2, "segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]},
    {"id": 2, "image_id": 2, "segmentation": {"size": [HEIGHT, WIDTH], "counts": ""}},
    {"id": 2, "image_id": 2, "segmentation": "a" * 50},
    {"id": 2, "image_id": 2, "segmentation": {"counts": {}}},
]
BAD_IMAGES: list[Any] = [
    {"id": 2, "file_name": "b.tif"},
    {"id": 2, "file_name": "b.tif", "width": 7, "height": None},
    {"id": 2, "file_name": "b.tif", "width": 0, "height": 5},
    {"id": 2, "file_name": "b.tif", "width": [7], "height": 5},
    {"id": None, "file_name": "b.tif", "width": 7, "height": 5},
    {"file_name": "b.tif", "width": 7, "height": 5},
    {"id": [2], "file_name": "b.tif", "width": 7, "height": 5},
    {"id": 2, "file_name": "b.tif", "width": "1" * 5000, "height": 5},
]


@pytest.mark.parametrize("bad", BAD_ANNOTATIONS)
def test_one_bad_annotation_rejects_its_image_and_no_other(bad: Any) -> None:
    coco = read_coco(file_of([listed(), listed(2, "b.tif")], [annotated(SQUARE), bad]), "truth.json")
    np.testing.assert_array_equal(coco.draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))
    with pytest.raises(UnreadableCoco, match=r"annotation 2 of b\.tif in truth\.json"):
        coco.draw("b.tif", [(HEIGHT, WIDTH)])


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_one_bad_image_is_rejected_and_no_other(bad: Any) -> None:
    coco = read_coco(file_of([listed(), bad], [annotated(SQUARE)]), "truth.json")
    np.testing.assert_array_equal(coco.draw("a.tif", [(HEIGHT, WIDTH)]), draw(SQUARE))
    for read in (coco, read_part(coco.part("b.tif"), "truth.json")):
        with pytest.raises(UnreadableCoco, match=r"truth\.json: b\.tif has no"):
            read.draw("b.tif", [(HEIGHT, WIDTH)])


@pytest.mark.parametrize("number", ["1" * 5000, "1e400"])
@pytest.mark.parametrize("field", ["id", "width", "height"])
def test_a_number_past_every_limit_is_named_as_the_reason(field: str, number: str) -> None:
    bad = {"id": 2, "file_name": "b.tif", "width": WIDTH, "height": HEIGHT} | {field: "<number>"}
    content = file_of([listed(), bad], [annotated(SQUARE)]).replace(b'"<number>"', number.encode())
    coco = read_coco(content, "truth.json")
    assert coco.draw("a.tif", [(HEIGHT, WIDTH)]).any()
    with pytest.raises(UnreadableCoco, match=rf"truth\.json: b\.tif has no usable `{field}`"):
        coco.draw("b.tif", [(HEIGHT, WIDTH)])


def test_an_id_of_two_images_rejects_both_and_no_other() -> None:
    content = file_of([listed(1), listed(2, "b.tif"), listed("2", "c.tif")], [annotated(SQUARE)])
    coco = read_coco(content, "truth.json")
    assert coco.draw("a.tif", [(HEIGHT, WIDTH)]).any()
    for name in ("b.tif", "c.tif"):
        with pytest.raises(UnreadableCoco, match=r"the id 2 belongs to b\.tif and to c\.tif"):
            coco.draw(name, [(HEIGHT, WIDTH)])


@pytest.mark.parametrize("bad", [None, 7, "a", [], {}, {"file_name": None}, {"file_name": ["b"], "id": 1}])
def test_an_entry_that_is_no_image_is_counted(bad: Any) -> None:
    coco = read_coco(file_of([listed(), bad], [annotated(SQUARE), bad]), "truth.json")
    assert (coco.images, coco.unnamed, coco.annotations_without_image) == (1, 1, 1)
    assert coco.draw("a.tif", [(HEIGHT, WIDTH)]).any()


def test_more_images_than_can_be_indexed_at_once_are_refused() -> None:
    many = [listed(each, f"{each}.tif") for each in range(MOST_IMAGES + 1)]
    coco = read_coco(file_of(many, [annotated(SQUARE)]), "truth.json")
    with pytest.raises(UnreadableCoco, match="lists 20001 images, the limit is 20000; split it"):
        require_few_images(coco)


@pytest.mark.parametrize(
    ("limit", "of"), [("MOST_LISTED_IMAGES", "images"), ("MOST_ANNOTATIONS", "annotations")]
)
def test_more_entries_than_fit_in_memory_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch, limit: str, of: str
) -> None:
    lists: dict[str, list[Any]] = {"images": [listed()], "annotations": [annotated(SQUARE)]}
    lists[of] = [*lists[of], 0, 0]
    content = file_of(**lists)
    monkeypatch.setattr(coco_format, limit, 3)
    assert read_coco(content, "truth.json").draw("a.tif", [(HEIGHT, WIDTH)]).any()
    monkeypatch.setattr(coco_format, limit, 2)
    monkeypatch.setattr(coco_format, "File", None)  # decoding is not reached
    with pytest.raises(
        UnreadableCoco, match=rf"are 3 {of} in truth\.json, the limit is 2; split it into files"
    ):
        read_coco(content, "truth.json")


values = st.recursive(
    st.integers() | st.text('"\\[]{},a'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('"\\[]{},a'), inner),
)


@given(
    st.lists(values, min_size=1) | st.dictionaries(st.text('"\\[]{},a'), values, min_size=1),
    st.integers(1, 20),
)
def test_entries_are_counted_as_decoding_would(entries: Any, marks_at_a_time: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_format, "MARKS_AT_A_TIME", marks_at_a_time)
        assert coco_format.count_entries(json.dumps(entries).encode()) == len(entries)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a COCO file"),
        (b"\x89PNG", "is not a COCO file"),
        (b"[" * 100_000, "is not a COCO file"),
        (b"[]", "is not a COCO file"),
        (b"{}", "images"),
        (b'{"images": []}', "annotations"),
        (file_of([], []), "lists no images"),
        (file_of([listed()], []), "has no annotations at all"),
        (b'{"images": {"\xe4": {}}, "annotations": []}', "is not a COCO file"),
        (file_of([{"id": 1, "file_name": "a.tif"}], []), "width"),
        (file_of([listed(width=0)], []), "width"),
        (file_of([listed(file_name="")], []), "file_name"),
        (file_of([listed(file_name="/")], []), "file_name"),
        (file_of([listed(file_name="a" * 256)], []), "file_name"),
        (file_of([listed()], [{"segmentation": SQUARE}]), "image_id"),
        (file_of([listed(1, "a.tif"), listed(1, "b.tif")], []), "the id 1 belongs to a.tif and to b.tif"),
        (file_of([listed()], [annotated(SQUARE)])[:-9], "is not a COCO file"),
        (
            b'{"images": [], "annotations": [], "annotations_without_image": 1%s}' % (b"0" * 50),
            "<= 2147483648",
        ),
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


@needs(LIVECELL)
@pytest.mark.parametrize("split", ["train", "test"])
def test_livecell_s_own_annotations_draw_its_masks(split: str) -> None:
    file = read_coco((LIVECELL / f"livecell_coco_{split}.json").read_bytes(), split)
    assert file.annotations_without_image == 0
    for name in file.entries:
        (mask,) = (LIVECELL / "masks").glob(f"{Path(name).stem}*")
        cells = images.read_page(mask).pixels > 0
        np.testing.assert_array_equal(file.draw(name, [(520, 704)]), cells)
