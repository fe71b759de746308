"""The labelled images: found, or named where they cannot be used, and cropped together with their masks."""

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle

from cytomask.model.preprocess import TILE, normalise
from cytomask.training.dataset import (
    Augmentation,
    Labelled,
    draw_crop,
    load,
    random_crop,
    read_source,
    read_unlabelled,
    union,
)
from cytomask.training.train import TrainingConfig

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
COLUMNS = ("source", "split", "image", "mask")
HEIGHT, WIDTH = 20, 30

# One crop as it lies in the source; what a test is about is added to it.
PLAIN = Augmentation(zoom=(1, 1), squash=0, flip=0, turn=False, noise=0, repage=0, contrast=0, brightness=0)


def changed(**fields: Any) -> Augmentation:
    return msgspec.structs.replace(PLAIN, **fields)


def grey_image(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def write_image(path: Path, pixels: NDArray[Any] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey_image() if pixels is None else pixels).save(path)


def write_index(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """An index with these rows, and their files but for those whose names contain `missing`."""
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    for _, _, image, mask in rows:
        for name, pixels in ((image, grey_image()), (mask, (grey_image() > 127).astype(np.uint8) * 255)):
            if "missing" not in name:
                write_image(folder / name, pixels)
    return folder


def picture(number: int, name: str, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": height, "width": width}


def outline(image: int, segmentation: Any) -> dict[str, Any]:
    return {"image_id": image, "segmentation": segmentation}


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """A polygon around these pixels, right and bottom not included."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def filled(*boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """What such rectangles cover."""
    cells = np.zeros((HEIGHT, WIDTH), np.bool_)
    for left, top, right, bottom in boxes:
        cells[top:bottom, left:right] = True
    return cells


def write_coco(folder: Path, pictures: list[dict[str, Any]], annotations: Any) -> str:
    """A COCO file, and its images below `images` but for those whose names contain `missing`; the source."""
    (folder / "coco.json").write_text(json.dumps({"images": pictures, "annotations": annotations}))
    for given in pictures:
        if "missing" not in given["file_name"]:
            write_image(folder / "images" / given["file_name"])
    return "coco:coco.json:images"


def blobs(height: int = 300, width: int = 400, seed: int = 0) -> Labelled:
    """An image that is bright exactly where its mask is true, in shapes without any symmetry."""
    coarse = np.random.default_rng(seed).random((height // 20 + 1, width // 20 + 1)) < 0.4
    cells = coarse.repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
    return Labelled("blobs", normalise(cells), cells)


def numbered(height: int, width: int) -> Labelled:
    """An image in which no two pixels are alike."""
    pixels = np.arange(height * width, dtype=np.float32).reshape(height, width)
    return Labelled("numbered", pixels, pixels % 2 > 0)


def placements(augmentation: Augmentation, side: int, count: int) -> NDArray[np.float64]:
    """Where crops lie in a square source: (count, 2, 3), x and y by column and by row, and of the middle."""
    ramps = [np.broadcast_to(np.arange(side, dtype=np.float32), (side, side)).copy()]
    ramps.append(ramps[0].T.copy())
    found = np.zeros((count, 2, 3))
    for axis, ramp in enumerate(ramps):
        rng = np.random.default_rng(0)
        for crop in range(count):
            tile = random_crop(Labelled("ramp", ramp, ramp > 0), augmentation, rng)[0][0].astype(np.float64)
            at = TILE // 2 - 1  # and the next one, between which the middle lies
            inner = tile[at : at + 2, at : at + 2]
            # Over 8 pixels, because OpenCV places a pixel to a thirty-second.
            across, down = (
                (tile[at, at + 4] - tile[at, at - 4]) / 8,
                (tile[at + 4, at] - tile[at - 4, at]) / 8,
            )
            found[crop, axis] = across, down, inner.mean()
    return found


# Sources


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
    write_coco(tmp_path, [], [])
    with pytest.raises(ValueError, match=f"{source} in .* has no images"):
        read_source(tmp_path, source)


@pytest.mark.parametrize("source", ["voc:a:b", "coco:coco.json", "pairs:a:b:c"])
def test_an_unknown_kind_of_source_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=f"{source} is no source; write SOURCE/SPLIT, coco:JSON:IMAGES or"):
        read_source(tmp_path, source)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, [("ours", "train", "i/a.png", "m/a_mask.png")])
    Image.new("L", (31, 20)).save(tmp_path / "m/a_mask.png")
    with pytest.raises(ValueError, match=r"a\.png is \(20, 30\) but its ground truth is \(20, 31\)"):
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
    source = write_coco(tmp_path, [picture(1, "a.tif")], [outline(5, rectangle(1, 1, 4, 4))])
    (sample,) = read_source(tmp_path, source)
    assert np.array_equal(sample.read()[1], filled())


def test_missing_images_of_a_coco_file_are_named_at_once(tmp_path: Path) -> None:
    names = ("missing_b.tif", "a.tif", "missing_a.tif")
    source = write_coco(tmp_path, [picture(at, name) for at, name in enumerate(names)], [])
    expected = r"images lacks 2 images that coco\.json names: missing_a\.tif, missing_b\.tif$"
    with pytest.raises(FileNotFoundError, match=expected):
        read_source(tmp_path, source)


def test_an_image_of_another_size_than_the_coco_file_says_is_named(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [picture(1, "a.tif", 21, 30)], [outline(1, rectangle(1, 1, 4, 4))])
    with pytest.raises(ValueError, match=r"a\.tif is \(20, 30\) but its ground truth is \(21, 30\)"):
        load(read_source(tmp_path, source))


def test_an_outline_that_cannot_be_drawn_is_named_with_its_image(tmp_path: Path) -> None:
    annotations = [outline(1, rectangle(1, 1, 4, 4)), outline(2, [[1, 1, 4, 4]])]
    source = write_coco(tmp_path, [picture(1, "a.tif"), picture(2, "b.tif")], annotations)
    expected = r"1 of 2 images cannot be used: coco\.json, b\.tif: .* a polygon needs three points or more"
    with pytest.raises(ValueError, match=expected):
        load(read_source(tmp_path, source))


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        "{}",
        '{"images": []}',
        '{"images": null, "annotations": []}',
        '{"images": [{"id": 1}], "annotations": []}',
        '{"images": [], "annotations": [{"id": 1}]}',
        '{"images": {"1": {}}, "annotations": []}',
    ],
)
def test_what_is_not_a_coco_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "coco.json").write_text(content)
    with pytest.raises(ValueError, match=r"coco\.json is not a COCO file: "):
        read_source(tmp_path, "coco:coco.json:images")


def test_polygons_and_run_lengths_are_joined_and_clipped() -> None:
    drawn = filled((20, 10, 28, 15))
    compressed = rle.encode(np.asfortranarray(drawn.astype(np.uint8)))
    segmentations = [
        rectangle(1, 1, 6, 6) + rectangle(4, 4, 9, 9),
        rectangle(-5, 17, 300, 200),
        {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": [3 * HEIGHT + 2, 5, WIDTH * HEIGHT - 3 * HEIGHT - 7]},
    ]
    expected = drawn | filled((1, 1, 6, 6), (4, 4, 9, 9), (0, 17, 30, 20), (3, 2, 4, 7))
    assert np.array_equal(union(segmentations, (HEIGHT, WIDTH), "a"), expected)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 5, 5]],
        [[1, 1, 5, 5, 3, 3, 2]],
        [[]],
        [],
        [1, 1, 5, 1, 5, 5],
        [["a", "b", "c", "d", "e", "f"]],
        None,
        {},
        {"counts": [600]},
        {"size": [20, 30], "counts": [599]},
        {"size": [20, 30], "counts": [-1, 601]},
        {"size": [20, 30], "counts": "garbage"},
        {"size": [30, 20], "counts": [600]},
    ],
)
def test_a_segmentation_that_cannot_be_drawn_is_refused_by_the_images_name(segmentation: Any) -> None:
    with pytest.raises(ValueError, match=r"^a\.tif: a segmentation cannot be drawn: "):
        union([rectangle(1, 1, 4, 4), segmentation], (HEIGHT, WIDTH), "a.tif")


needs_data = pytest.mark.skipif(
    not (DATA / "index.csv").is_file(), reason=f"no real images: {DATA} is not there"
)


@needs_data
def test_livecells_outlines_are_the_masks_that_were_made_of_them() -> None:
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
        assert item.pixels.std(dtype=np.float64) == pytest.approx(1, abs=1e-3)
        assert item.cells.mean() == pytest.approx(foreground[item.name], abs=1e-3)


# Crops


MOVES = {
    "zoom": changed(zoom=(0.5, 2)),
    "affine": changed(affine=1, rotation=45, shear=20),
    "shift": changed(squash=1, affine=1, rotation=0, shear=0, shift=0.3),
    "flip": changed(flip=0.5, turn=True),
    "squash": changed(squash=1),
    "window": changed(squash=1, squash_window=0.3),
    "all": changed(
        zoom=(0.5, 2), squash=0.5, squash_window=0.3, flip=0.5, turn=True, affine=0.7, shear=20, shift=0.3
    ),
}


@pytest.mark.parametrize("shape", [(300, 400), (100, 90)], ids=["larger than a tile", "smaller"])
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_image_and_mask_move_together(shape: tuple[int, int], move: Augmentation) -> None:
    item = blobs(*shape)
    rng = np.random.default_rng(0)
    middle = (item.pixels.min() + item.pixels.max()) / 2
    seen = set()
    for _ in range(12):
        pixels, cells = random_crop(item, move, rng)
        assert pixels.shape == cells.shape == (1, TILE, TILE)
        assert pixels.dtype == cells.dtype == np.float32
        assert set(np.unique(cells)) == {0, 1}
        clear = np.abs(pixels - middle) > 0.01  # a tie may go either way
        assert clear.mean() > 0.95
        assert np.array_equal(pixels[clear] > middle, cells[clear] > 0)
        seen.add(cells.tobytes())
    assert len(seen) > 1 or move is MOVES["squash"]


def test_without_zoom_or_turn_the_crop_is_the_source_itself_from_all_over_the_page() -> None:
    item = numbered(230, 240)
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(150):
        pixels, cells = random_crop(item, PLAIN, rng)
        top, left = divmod(int(pixels[0, 0, 0]), 240)
        corners.add((top, left))
        window = (slice(top, top + TILE), slice(left, left + TILE))
        assert np.array_equal(pixels[0], item.pixels[window])
        assert np.array_equal(cells[0], item.cells[window])
    assert {top for top, _ in corners} == set(range(230 - TILE + 1))
    assert {left for _, left in corners} == set(range(240 - TILE + 1))


def test_a_page_smaller_than_a_tile_is_mirrored_around_its_middle() -> None:
    item = numbered(100, 90)
    pixels, cells = random_crop(item, PLAIN, np.random.default_rng(0))
    padding = ((62, 62), (67, 67))
    assert np.array_equal(pixels[0], np.pad(item.pixels, padding, mode="reflect"))
    assert np.array_equal(cells[0], np.pad(item.cells, padding, mode="reflect"))


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (224, 224), (223, 225)])
def test_pages_of_any_shape_can_be_cropped(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    item = Labelled("odd", rng.standard_normal(shape).astype(np.float32), np.ones(shape, np.bool_))
    wild = Augmentation(squash=0.5, squash_window=0.01, affine=1, blur=1, gamma=1)
    for _ in range(8):
        pixels, cells = random_crop(item, wild, rng)
        assert pixels.shape == (1, TILE, TILE)
        assert np.isfinite(pixels).all()
        assert cells.all()


def test_every_symmetry_of_the_square_is_taken_and_of_a_squashed_page_those_of_the_rectangle() -> None:
    item = blobs(TILE, TILE)
    rng = np.random.default_rng(0)
    taken = {random_crop(item, changed(flip=0.5, turn=True), rng)[1].tobytes() for _ in range(60)}
    turns = [np.rot90(item.cells, turn).astype(np.float32) for turn in range(4)]
    assert taken == {turned.tobytes() for turn in turns for turned in (turn, turn[:, ::-1])}

    whole = changed(squash=1, flip=0.5, turn=True)
    squashed = {random_crop(item, whole, rng)[1].tobytes() for _ in range(60)}
    assert squashed == {turned.tobytes() for turn in turns[::2] for turned in (turn, turn[:, ::-1])}


def test_zoom_is_the_side_of_the_source_in_tiles() -> None:
    scales = placements(changed(zoom=(0.5, 2)), side=600, count=40)[:, 0, 0]
    assert 0.5 <= scales.min() < 0.7
    assert 1.8 < scales.max() <= 2


def test_rotation_goes_to_either_side_by_degrees() -> None:
    found = placements(changed(affine=1, rotation=30, shear=0), side=600, count=60)
    angles = np.rad2deg(np.arctan2(found[:, 1, 0], found[:, 0, 0]))
    assert -30.5 < angles.min() < -24
    assert 24 < angles.max() < 30.5
    assert 0.25 < np.mean(angles < 0) < 0.75
    # A rotation and nothing else: the tile's rows and columns stay perpendicular and as long.
    np.testing.assert_allclose(found[:, 0, 1], -found[:, 1, 0], atol=0.02)
    np.testing.assert_allclose(np.linalg.det(found[:, :, :2]), 1, atol=0.02)


def test_shear_goes_to_either_side_by_degrees() -> None:
    found = placements(changed(affine=1, rotation=0, shear=10), side=600, count=60)
    slants = np.rad2deg(np.arctan(found[:, 0, 1]))
    assert -10.5 < slants.min() < -7
    assert 7 < slants.max() < 10.5
    np.testing.assert_allclose(found[:, 1, :2], [[0, 1]] * 60, atol=0.02)


def test_a_squashed_image_is_shifted_by_pixels_to_every_side() -> None:
    shifted = changed(squash=1, affine=1, rotation=0, shear=0, shift=0.1)
    middles = placements(shifted, side=TILE, count=60)[:, :, 2] - (TILE - 1) / 2
    limit = 0.1 * TILE
    for axis in (0, 1):
        assert -limit - 0.1 < middles[:, axis].min() < -0.7 * limit
        assert 0.7 * limit < middles[:, axis].max() < limit + 0.1
    assert abs(np.corrcoef(middles.T)[0, 1]) < 0.5


def test_affine_is_a_probability() -> None:
    found = placements(changed(affine=0.25, rotation=30), side=600, count=120)
    straight = np.abs(found[:, 1, 0]) < 1e-3
    assert 0.65 < straight.mean() < 0.85


def test_a_squashed_crop_shows_the_whole_image() -> None:
    item = blobs(500, 700)
    pixels, cells = random_crop(item, changed(squash=1), np.random.default_rng(0))
    assert cells.mean() == pytest.approx(item.cells.mean(), abs=0.01)
    assert pixels.mean() == pytest.approx(0, abs=0.01)


def test_a_squashed_window_has_its_share_of_the_image() -> None:
    columns = np.broadcast_to(np.arange(700, dtype=np.float32), (500, 700)).copy()
    item = Labelled("columns", columns, columns > 0)
    rng = np.random.default_rng(0)
    crops = [random_crop(item, changed(squash=1, squash_window=0.6), rng)[0][0] for _ in range(40)]
    shares = [(crop[100, 150] - crop[100, 50]) * TILE / 100 / 700 for crop in crops]
    assert 0.59 < min(shares) < 0.65
    assert 0.9 < max(shares) < 1.01
    assert all(crop.min() > -1 and crop.max() < 700 for crop in crops)


def test_the_references_crops_are_the_squashed_image_and_its_mirror_image() -> None:
    reference = TrainingConfig.read(ROOT / "training" / "configs" / "reference.yaml").augmentation
    bare = msgspec.structs.replace(reference, affine=0, blur=0)
    item = blobs(520, 704)
    pixels, coverage = item.squashed(np.s_[:, :])
    cells = (coverage >= 0.5).astype(np.float32)
    rng = np.random.default_rng(0)
    taken = [random_crop(item, bare, rng) for _ in range(20)]
    expected = {
        (array.tobytes(), mask.tobytes()) for array, mask in ((pixels, cells), _mirrored(pixels, cells))
    }
    assert {(array.tobytes(), mask.tobytes()) for array, mask in taken} == expected


def _mirrored(*arrays: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    return tuple(array[:, ::-1] for array in arrays)


def test_a_repaged_crop_is_normalised_as_a_page() -> None:
    pixels, _ = random_crop(blobs(), changed(noise=0.4, repage=1), np.random.default_rng(0))
    assert pixels.mean() == pytest.approx(0, abs=1e-5)
    assert pixels.std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("field", ["blur", "gamma", "noise", "contrast", "brightness"])
def test_degradation_leaves_the_mask_alone(field: str) -> None:
    item = Labelled(
        "noisy",
        np.random.default_rng(1).standard_normal((TILE, TILE)).astype(np.float32),
        blobs().cells[:TILE, :TILE],
    )
    rng = np.random.default_rng(0)
    crops = [random_crop(item, changed(**{field: 1}), rng) for _ in range(6)]
    assert all(np.array_equal(cells[0], item.cells) for _, cells in crops)
    assert any(not np.array_equal(pixels[0], item.pixels) for pixels, _ in crops)


def test_gamma_keeps_mean_and_deviation() -> None:
    item = Labelled(
        "noisy", normalise(np.random.default_rng(1).random((TILE, TILE)) ** 2), blobs().cells[:TILE, :TILE]
    )
    rng = np.random.default_rng(0)
    crops = [random_crop(item, changed(gamma=0.8), rng)[0] for _ in range(10)]
    assert 1 < len({crop.tobytes() for crop in crops}) <= 10
    for crop in crops:
        assert (crop.mean(), crop.std()) == pytest.approx((0, 1), abs=1e-3)


def test_augmentation_leaves_the_image_as_it_was() -> None:
    item, untouched = blobs(), blobs()
    rng = np.random.default_rng(0)
    for _ in range(10):
        random_crop(item, Augmentation(affine=1, blur=1, gamma=1), rng)
    assert np.array_equal(item.pixels, untouched.pixels)
    assert np.array_equal(item.cells, untouched.cells)


def test_the_seed_decides_every_crop() -> None:
    mix = [(1.0, [blobs(seed=seed) for seed in range(3)])]
    first, again, other = (
        draw_crop(mix, Augmentation(affine=1), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_sources_are_drawn_by_their_weights_and_images_evenly() -> None:
    def uniform(value: int) -> Labelled:
        return Labelled(
            str(value), np.full((TILE, TILE), value, np.float32), np.zeros((TILE, TILE), np.bool_)
        )

    mix = [(6.0, [uniform(0)]), (2.0, [uniform(1), uniform(2), uniform(3), uniform(4)])]
    rng = np.random.default_rng(0)
    drawn = np.bincount([int(draw_crop(mix, PLAIN, rng)[0][0, 0, 0]) for _ in range(500)], minlength=5) / 500
    # Four standard deviations of 500 draws.
    assert drawn[0] == pytest.approx(0.75, abs=0.077)
    assert drawn[1:] == pytest.approx([0.0625] * 4, abs=0.043)


@pytest.mark.parametrize(
    "values",
    [{"zoom": (1.3, 0.75)}, {"zoom": (0, 1)}, {"flip": 1.5}, {"squash_window": 0}, {"blur_deviation": 0.05}],
)
def test_augmentation_out_of_range_is_refused_by_its_field(values: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(values))):
        msgspec.convert(values, Augmentation)
