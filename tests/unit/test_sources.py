"""Sources of labelled images are found, or named if they cannot be used."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from real_images import DATA, needs

from cytomask.training.sources import load, read_source, read_unlabelled

ROOT = Path(__file__).parents[2]
COLUMNS = ("source", "split", "image", "mask")
HEIGHT, WIDTH = 20, 30


def grey_image(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def write_image(path: Path, pixels: NDArray[Any] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey_image() if pixels is None else pixels).save(path)


def write_index(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Write an index with these rows, and their files, except those with `missing` in their names."""
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    for _, _, image, mask in rows:
        for name, pixels in ((image, grey_image()), (mask, (grey_image() > 127).astype(np.uint8) * 255)):
            if "missing" not in name:
                write_image(folder / name, pixels)
    return folder


def picture(number: Any, name: str, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": height, "width": width}


def outline(image: int, segmentation: Any) -> dict[str, Any]:
    return {"image_id": image, "segmentation": segmentation}


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """Make a polygon around these pixels, excluding right and bottom."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def filled(*boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Return the pixels that such rectangles cover."""
    cells = np.zeros((HEIGHT, WIDTH), np.bool_)
    for left, top, right, bottom in boxes:
        cells[top:bottom, left:right] = True
    return cells


def write_coco(folder: Path, pictures: list[dict[str, Any]], annotations: Any) -> str:
    """Write a COCO file and its images, except those with `missing` in their names; return the source."""
    (folder / "coco.json").write_text(json.dumps({"images": pictures, "annotations": annotations}))
    for given in pictures:
        if "missing" not in given["file_name"]:
            write_image(folder / "images" / given["file_name"])
    return "coco:coco.json:images"


def test_the_rows_of_a_source_are_read(tmp_path: Path) -> None:
    rows = [
        ("ours", "train", "i/a.b.png", "m/a.png"),
        ("ours", "val", "i/c.png", "m/c.png"),
        ("theirs", "train", "i/d.png", "m/d.png"),
        ("ours", "train", "i/e.png", "m/e.png"),
    ]
    samples = read_source(write_index(tmp_path, rows), "ours/train")
    assert [sample.name for sample in samples] == ["a.b", "e"]
    page, cells = samples[0].read()
    assert np.array_equal(page, grey_image())
    assert np.array_equal(cells, grey_image() > 127)


def test_pairs_are_matched_by_name_whatever_their_suffixes(tmp_path: Path) -> None:
    cells = grey_image() > 200
    write_image(tmp_path / "i" / "deep" / "a.PNG")
    tifffile.imwrite(tmp_path / "i" / "b.tif", grey_image())
    write_image(tmp_path / "m" / "a.tif", cells.astype(np.uint8))
    write_image(tmp_path / "m" / "b.png", cells.astype(np.uint8) * 255)
    (tmp_path / "i" / "notes.txt").write_text("no image")
    samples = read_source(tmp_path, "pairs:i:m")
    assert sorted(sample.name for sample in samples) == ["a", "b"]
    for sample in samples:
        page, truth = sample.read()
        assert np.array_equal(page, grey_image())
        assert np.array_equal(truth, cells)


def test_a_mask_belongs_to_the_image_of_its_folder(tmp_path: Path) -> None:
    for at, plate in enumerate(("p1", "p2")):
        write_image(tmp_path / "i" / plate / "a.png")
        cells = np.zeros((HEIGHT, WIDTH), np.uint8)
        cells[at] = 255
        write_image(tmp_path / "m" / plate / "a_masks.PNG", cells)
    for at, sample in enumerate(read_source(tmp_path, "pairs:i:m")):
        assert sample.image.parent.name == f"p{at + 1}"
        assert np.array_equal(sample.read()[1], filled((0, at, WIDTH, at + 1)))


@pytest.mark.parametrize(
    ("masks", "doubt"),
    [
        (["m/a.png"], r"p1/a\.png \(a\.png\); p2/a\.png \(a\.png\)"),
        (["m/p1/a.png", "m/p1/a.tif", "m/p2/a.png"], r"p1/a\.png \(p1/a\.png, p1/a\.tif\)"),
    ],
)
def test_images_whose_mask_is_doubtful_are_named_with_it(
    tmp_path: Path, masks: list[str], doubt: str
) -> None:
    for name in ("i/p1/a.png", "i/p2/a.png", *masks):
        write_image(tmp_path / name)
    with pytest.raises(ValueError, match=f"do not tell which ground truth is theirs: {doubt}; name"):
        read_source(tmp_path, "pairs:i:m")


def test_masks_that_no_image_has_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("i/a.png", "i/._a.png", "m/a.png", "m/c.png", "m/d_mask.tif"):
        write_image(tmp_path / name)
    assert len(read_source(tmp_path, "pairs:i:m")) == 1
    assert caplog.messages == [f"2 files in {tmp_path / 'm'} belong to no image: c.png, d_mask.tif"]


def test_a_second_mask_of_an_image_is_named_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("i/a.tif", "m/a.png", "m/a_masks.png"):
        write_image(tmp_path / name)
    [sample] = read_source(tmp_path, "pairs:i:m")
    assert sample.image.name == "a.tif"
    assert caplog.messages == [
        f"1 files in {tmp_path / 'm'} are not used, because their image has another mask that is named more "
        "like it: a_masks.png"
    ]


def test_an_image_of_several_pages_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey_image()] * 2), photometric="minisblack")
    with pytest.raises(ValueError, match=r"a\.tif has 2 pages; save each as an image of its own"):
        read_unlabelled(tmp_path)


def test_images_without_a_mask_are_named_together(tmp_path: Path) -> None:
    for name in ("i/a.png", "i/b.png", "i/c.png", "m/b.png"):
        write_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"m has no mask for 2 images: a\.png, c\.png$"):
        read_source(tmp_path, "pairs:i:m")


def test_the_cell_line_is_in_the_name_or_in_the_index(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(
        "source,split,image,mask,cell\n"
        "ours,train,BV2_Phase_A4_2_03d.png,m.png,microglia\nours,train,a.png,m.png,HeLa\n"
    )
    for name in ("BV2_Phase_A4_2_03d.png", "a.png", "m.png"):
        write_image(tmp_path / name)
    assert [sample.group for sample in read_source(tmp_path, "ours/train")] == ["BV2", "HeLa"]


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    rows = [
        ("ours", "train", "i/missing1.png", "m/a.png"),
        ("ours", "train", "i/b.png", "m/missing2.png"),
        ("ours", "val", "i/missing3.png", "m/c.png"),
    ]
    write_index(tmp_path, rows)
    with pytest.raises(FileNotFoundError, match=r"lacks 2 listed files: i/missing1\.png, m/missing2\.png$"):
        read_source(tmp_path, "ours/train")


def test_an_index_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("image,mask\na.png,b.png\n")
    with pytest.raises(ValueError, match=r"index\.csv lacks the columns source, split$"):
        read_source(tmp_path, "ours/train")


@pytest.mark.parametrize("source", ["ours/train", "coco:coco.json:images", "pairs:images:masks"])
def test_a_source_without_images_is_refused(tmp_path: Path, source: str) -> None:
    write_index(tmp_path, [])
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"has no images|lists no images"):
        read_source(tmp_path, source)


@pytest.mark.parametrize("source", ["voc:a:b", "coco:coco.json", "pairs:a:b:c"])
def test_an_unknown_kind_of_source_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=f"{source} is not a source; write SOURCE/SPLIT, somata:"):
        read_source(tmp_path, source)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, [("ours", "train", "i/a.png", "m/a_mask.png")])
    Image.new("L", (31, 20)).save(tmp_path / "m/a_mask.png")
    with pytest.raises(ValueError, match=r"a\.png: a_mask\.png is 31 x 20 pixels and the image 30 x 20"):
        load(read_source(tmp_path, "ours/train"))


def test_images_that_cannot_be_read_are_named_together(tmp_path: Path) -> None:
    write_index(tmp_path, [("ours", "train", f"i/{name}.png", f"m/{name}.png") for name in "abcd"])
    content = (tmp_path / "i/a.png").read_bytes()
    (tmp_path / "i/a.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "i/c.png").write_text("no image")
    (tmp_path / "m/d.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^3 of 4 images cannot be used: a\.png: .*; c\.png: .*; d\.png: "):
        load(read_source(tmp_path, "ours/train"))


def test_bit_depth_and_gain_do_not_matter(tmp_path: Path) -> None:
    grey = grey_image()
    for name, pixels in (
        ("a", grey),
        ("b", grey.astype(np.uint16) * 200 + 1000),
        ("c", grey / np.float32(7)),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
    a, b, c = read_unlabelled(tmp_path)
    assert a.pixels.dtype == np.float32
    assert (a.pixels.mean(), a.pixels.std()) == pytest.approx((0, 1), abs=1e-6)
    np.testing.assert_allclose(b.pixels, a.pixels, atol=1e-6)
    np.testing.assert_allclose(c.pixels, a.pixels, atol=1e-6)


def test_a_folder_without_unlabelled_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images"):
        read_unlabelled(tmp_path)


# LIVECell's layout


@pytest.mark.parametrize("by_id", [False, True], ids=["list", "by id"])
def test_livecells_files_are_read_as_they_stand(tmp_path: Path, by_id: bool) -> None:
    pictures = [picture(7, "A172_Phase_A7_1_00d00h00m_1.tif"), picture(9, "BV2_Phase_A4_2_03d00h00m_4.tif")]
    listed = [
        outline(9, rectangle(1, 2, 5, 6)),
        outline(7, rectangle(0, 0, 30, 1)),
        outline(9, rectangle(4, 4, 8, 9)),
    ]
    annotations = {str(100 + at): given for at, given in enumerate(listed)} if by_id else listed
    source = write_coco(tmp_path, [], [])
    (tmp_path / "coco.json").write_text(json.dumps({"images": pictures, "annotations": annotations}))
    for given in pictures:
        folder = tmp_path / "images" / "livecell_train_val_images" / given["file_name"].partition("_")[0]
        write_image(folder / given["file_name"])

    samples = read_source(tmp_path, source)
    assert [(sample.name, sample.group) for sample in samples] == [
        ("A172_Phase_A7_1_00d00h00m_1", "A172"),
        ("BV2_Phase_A4_2_03d00h00m_4", "BV2"),
    ]
    for sample, cells in zip(
        samples, (filled((0, 0, 30, 1)), filled((1, 2, 5, 6), (4, 4, 8, 9))), strict=True
    ):
        page, truth = sample.read()
        assert np.array_equal(page, grey_image())
        assert truth.dtype == np.bool_
        assert np.array_equal(truth, cells)


def test_an_id_that_is_listed_twice_is_one_image(tmp_path: Path) -> None:
    source = write_coco(
        tmp_path, [picture(1, "a.tif"), picture(1, "a.tif")], [outline(1, rectangle(1, 1, 4, 4))]
    )
    (sample,) = read_source(tmp_path, source)
    assert np.array_equal(sample.read()[1], filled((1, 1, 4, 4)))


def test_two_ids_of_one_file_are_one_image_with_the_outlines_of_both(tmp_path: Path) -> None:
    annotations = [outline(1, rectangle(1, 1, 4, 4)), outline(2, rectangle(3, 3, 9, 9))]
    source = write_coco(tmp_path, [picture(1, "a.tif"), picture(2, "a.tif")], annotations)
    (sample,) = read_source(tmp_path, source)
    assert np.array_equal(sample.read()[1], filled((1, 1, 4, 4), (3, 3, 9, 9)))


def test_an_image_without_outlines_has_no_cells(tmp_path: Path) -> None:
    pictures = [picture(1, "a.tif"), picture(2, "b.tif")]
    source = write_coco(tmp_path, pictures, [outline(1, rectangle(1, 1, 4, 4))])
    _, sample = read_source(tmp_path, source)
    assert np.array_equal(sample.read()[1], filled())


def test_a_file_of_which_no_annotation_has_an_image_is_refused(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [picture(1, "a.tif")], [outline(5, rectangle(1, 1, 4, 4))])
    with pytest.raises(ValueError, match=r"none of the 1 annotations of coco\.json belongs to an image"):
        read_source(tmp_path, source)


@pytest.mark.parametrize(
    ("file_name", "image"),
    [
        ("images\\p1\\a.tif", "p1/a.tif"),
        ("p1%2Fa.tif", "p1/a.tif"),
        ("u\u0308.tif", "ü.tif"),
        ("ü.tif", "u\u0308.tif"),
        ("elsewhere/a.tif", "p1/a.tif"),
    ],
)
def test_file_names_are_matched_whichever_tool_wrote_them(tmp_path: Path, file_name: str, image: str) -> None:
    write_coco(tmp_path, [picture(1, "missing")], [])
    write_image(tmp_path / "images" / image)
    content = {"images": [picture("1", file_name)], "annotations": [outline(1, rectangle(1, 1, 4, 4))]}
    (tmp_path / "coco.json").write_text(json.dumps(content), "utf-8-sig")
    (sample,) = read_source(tmp_path, "coco:coco.json:images")
    assert sample.image == tmp_path / "images" / image
    assert np.array_equal(sample.read()[1], filled((1, 1, 4, 4)))


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    pictures = [picture(1, "p1/a.tif"), picture(2, "p2/a.tif")]
    source = write_coco(tmp_path, pictures, [outline(1, rectangle(1, 1, 4, 4))])
    first, second = read_source(tmp_path, source)
    assert (first.image.parent.name, second.image.parent.name) == ("p1", "p2")
    assert [sample.read()[1].any() for sample in (first, second)] == [True, False]


def test_a_name_that_fits_images_in_two_folders_is_refused(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [picture(1, "p1/a.tif")], [])
    write_image(tmp_path / "images" / "p2" / "a.tif")
    annotations = [outline(1, rectangle(1, 1, 4, 4))]
    (tmp_path / "coco.json").write_text(
        json.dumps({"images": [picture(1, "a.tif")], "annotations": annotations})
    )
    with pytest.raises(ValueError, match=r"p1/a\.tif \(a\.tif\); p2/a\.tif \(a\.tif\)"):
        read_source(tmp_path, source)


def test_missing_images_of_a_coco_file_are_named_at_once(tmp_path: Path) -> None:
    names = ("missing_b.tif", "a.tif", "missing_a.tif")
    pictures = [picture(at, name) for at, name in enumerate(names)]
    source = write_coco(tmp_path, pictures, [outline(0, rectangle(1, 1, 4, 4))])
    expected = r"images lacks 2 images that coco\.json names: missing_a\.tif, missing_b\.tif$"
    with pytest.raises(FileNotFoundError, match=expected):
        read_source(tmp_path, source)


def test_an_image_of_another_size_than_the_coco_file_says_is_named(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [picture(1, "a.tif", 21, 30)], [outline(1, rectangle(1, 1, 4, 4))])
    with pytest.raises(
        ValueError, match=r"a\.tif: coco\.json says that a\.tif is 30 x 21 pixels, and the image is 30 x 20"
    ):
        load(read_source(tmp_path, source))


def test_an_outline_that_cannot_be_drawn_leaves_out_its_image_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotations = [outline(1, rectangle(1, 1, 4, 4)), outline(2, [[1, 1, 4, 4]])]
    source = write_coco(tmp_path, [picture(1, "a.tif"), picture(2, "b.tif")], annotations)
    (loaded,) = load(read_source(tmp_path, source))
    assert loaded.name == "a"
    assert (
        "1 of 2 images cannot be used: b.tif: annotation None of b.tif in coco.json has a polygon of 4"
        in caplog.text
    )


def test_a_source_without_any_usable_ground_truth_is_refused(tmp_path: Path) -> None:
    annotations = [outline(1, [[1, 1, 4, 4]]), outline(2, [[1, 1, 4, 4]])]
    source = write_coco(tmp_path, [picture(1, "a.tif"), picture(2, "b.tif")], annotations)
    with pytest.raises(ValueError, match=r"2 of 2 images cannot be used: a\.tif: .*; b\.tif: "):
        load(read_source(tmp_path, source))


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"images": null, "annotations": []}'])
def test_a_file_that_is_not_coco_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "coco.json").write_text(content)
    with pytest.raises(ValueError, match=r"coco\.json is not a COCO file "):
        read_source(tmp_path, "coco:coco.json:images")


needs_data = needs(DATA / "index.csv")


@needs_data
def test_livecells_outlines_draw_the_masks_made_from_them() -> None:
    drawn = read_source(DATA, "coco:livecell/livecell_coco_train.json:livecell")
    masks = {sample.name: sample for sample in read_source(DATA, "livecell/train")}
    assert {sample.name for sample in drawn} == set(masks)
    for sample in drawn:
        assert sample.group == masks[sample.name].group
        assert np.array_equal(sample.read()[1], masks[sample.name].read()[1])


@needs_data
def test_the_real_images_fit_their_masks() -> None:
    sources = ("livecell/train", "usiigaci/val", "deepcell/val")
    items = load([sample for source in sources for sample in read_source(DATA, source)])
    with (DATA / "index.csv").open(newline="") as file:
        foreground = {Path(row["image"]).stem: float(row["foreground"]) for row in csv.DictReader(file)}
    assert len(items) == 5 + 4 + 3
    for item in items:
        # Values beyond the limits of normalisation count less for its deviation.
        assert 1 <= round(float(item.pixels.std(dtype=np.float64)), 3) < 1.5
        assert item.cells.mean() == pytest.approx(foreground[item.name], abs=1e-3)


@pytest.mark.parametrize("rule", ["somata", "colonies"])
def test_a_rule_leaves_part_of_a_row_unknown(tmp_path: Path, rule: str) -> None:
    write_index(tmp_path, [("made", "train", "a.png", "a_mask.png")])
    (plain,), (ruled,) = (load(read_source(tmp_path, f"{kind}made/train")) for kind in ("", f"{rule}:"))
    assert plain.known is None
    assert ruled.known is not None
    assert ruled.known[ruled.cells].all()
    assert np.array_equal(ruled.cells, plain.cells)


def test_pseudo_labels_are_read_with_their_third_value(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png")
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[:5], drawn[5:8] = 255, 128
    write_image(tmp_path / "labels" / "a.png", drawn)
    (item,) = load(read_source(tmp_path, "pseudo:images:labels"))
    assert item.name == "a"
    assert np.array_equal(item.cells, drawn == 255)
    assert item.known is not None
    assert np.array_equal(item.known, drawn != 128)


def test_a_pseudo_label_without_its_image_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    write_image(tmp_path / "labels" / "b.png")
    with pytest.raises(FileNotFoundError, match=r"images has no image for 1 labels: b\.png"):
        read_source(tmp_path, "pseudo:images:labels")


def test_generated_empty_pages_are_a_source(tmp_path: Path) -> None:
    items = load(read_source(tmp_path, "empty:5-6"))
    assert [(item.name, bool(item.cells.any())) for item in items] == [
        ("empty-0005", False),
        ("empty-0006", False),
    ]
    assert all(item.pixels.shape == (520, 704) for item in items)


@pytest.mark.parametrize("seeds", ["", "5", "a-b", "-1-3", "3-1"])
def test_empty_pages_need_a_range(tmp_path: Path, seeds: str) -> None:
    with pytest.raises(ValueError, match=r"empty:.* (is not a source|has no images)"):
        read_source(tmp_path, f"empty:{seeds}")
