"""Pairs of images and ground truths are found in every layout."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cytomask.output_names import OUTPUT_FILES, RESULT, output_key
from cytomask.truths.pairs import (
    Page,
    PairsError,
    find_images_and_truths,
    find_pairs,
    read_pages,
    read_plain_pages,
)

SIZE = (30, 40)


def cells_of(seed: int) -> Any:
    return np.random.default_rng(seed).random(SIZE) < 0.3


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.random.default_rng(seed).integers(0, 4000, SIZE).astype(np.uint16))
    return path


def mask(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.zeros(size, bool) if size != SIZE else cells_of(seed)
    Image.fromarray(cells.astype(np.uint8) * 255).save(path)
    return path


def seg(path: Path, seed: int = 0) -> Path:
    np.save(path, {"masks": cells_of(seed).astype(np.int32)}, allow_pickle=True)  # type: ignore[arg-type]
    return path


def read(tmp_path: Path, *paths: Path) -> list[Page]:
    return list(read_pages(find_pairs(paths, tmp_path / "unpacked").pairs))


def assert_pages(pages: list[Page], seeds: dict[str, int]) -> None:
    assert [page.name for page in pages] == list(seeds)
    for page, seed in zip(pages, seeds.values(), strict=True):
        np.testing.assert_array_equal(page.cells, cells_of(seed))
        assert page.pixels.dtype == np.uint16


@pytest.mark.parametrize(
    "ending", ["_mask.png", "_masks.png", "_cp_masks.png", "_label.png", ".mask.png", "_seg.png"]
)
def test_one_folder_with_masks_beside_images(tmp_path: Path, ending: str) -> None:
    for seed, name in enumerate(("a", "b")):
        image(tmp_path / "in" / f"{name}.tif", seed)
        mask(tmp_path / "in" / f"{name}{ending}", seed)
    image(tmp_path / "in" / "lonely.tif")
    found = find_pairs([tmp_path / "in"], tmp_path)
    assert_pages(list(read_pages(found.pairs)), {"a.tif": 0, "b.tif": 1})
    assert (found.without_truth, found.without_image) == ({"lonely.tif": tmp_path / "in/lonely.tif"}, [])


def test_masks_of_cellpose_come_before_the_image_that_was_exported_from_them(tmp_path: Path) -> None:
    image(tmp_path / "in/a.tif")
    mask(tmp_path / "in/a_cp_masks.png", 5)
    seg(tmp_path / "in/a_seg.npy", 6)
    assert_pages(read(tmp_path, tmp_path / "in"), {"a.tif": 6})


def test_two_folders_under_the_same_names(tmp_path: Path) -> None:
    for seed, name in enumerate(("p/a", "p/b")):
        image(tmp_path / f"pictures/{name}.tif", seed)
        mask(tmp_path / f"drawn/{name}.png", seed)
    seg(tmp_path / "drawn/c_seg.npy", 2)
    image(tmp_path / "pictures/c.tif", 2)
    pages = read(tmp_path, tmp_path / "pictures", tmp_path / "drawn")
    assert_pages(pages, {"c.tif": 2, "p/a.tif": 0, "p/b.tif": 1})


@pytest.mark.parametrize("packed", [True, False])
def test_the_web_pages_zip_is_read_packed_and_unpacked(tmp_path: Path, packed: bool) -> None:
    image(tmp_path / "in/images/plate 1/B02.tif", 3)
    mask(tmp_path / "in/masks/plate 1/B02.png", 3)
    (tmp_path / "in/missing.txt").write_text("job: its mask is gone\n")
    path = tmp_path / "in"
    if packed:
        path = Path(shutil.make_archive(str(tmp_path / "pairs"), "zip", path))
    assert_pages(read(tmp_path, path), {"plate 1/B02.tif": 3})


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "../../escaped.tif")
    with pytest.raises(PairsError, match="no image has a ground truth"):
        find_pairs([tmp_path / "pairs.zip"], tmp_path / "deep" / "unpacked")
    assert not list(tmp_path.glob("escaped*"))
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    with pytest.raises(PairsError, match=r"broken\.zip cannot be unpacked"):
        find_pairs([tmp_path / "broken.zip"], tmp_path)


def test_a_coco_file_and_the_folder_of_its_images(tmp_path: Path) -> None:
    image(tmp_path / "pictures/a.tif")
    height, width = SIZE
    coco = {
        "images": [{"id": 1, "file_name": "a.tif", "height": height, "width": width}],
        "annotations": [{"id": 1, "image_id": 1, "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    [page] = read(tmp_path, tmp_path / "coco.json", tmp_path / "pictures")
    assert (page.name, int(page.cells.sum())) == ("a.tif", 100)
    shutil.move(tmp_path / "coco.json", tmp_path / "pictures")
    assert len(read(tmp_path, tmp_path / "pictures/coco.json")) == 1


def test_every_page_of_a_stack_is_a_page_of_one_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, *SIZE)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/s.tif", pixels, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "in/s_mask.tif",
        np.stack([cells_of(seed) for seed in range(3)]).astype(np.uint8),
        photometric="minisblack",
    )
    pages = read(tmp_path, tmp_path / "in")
    assert [page.name for page in pages] == ["s.tif page 0", "s.tif page 1", "s.tif page 2"]
    assert {page.file for page in pages} == {"s.tif"}
    np.testing.assert_array_equal(pages[2].cells, cells_of(2))


def test_files_may_be_named_one_by_one(tmp_path: Path) -> None:
    paths = [image(tmp_path / "in/a.tif", 1), mask(tmp_path / "in/a_mask.png", 1)]
    assert_pages(read(tmp_path, *paths), {"a.tif": 1})


def test_another_size_is_refused_with_both_sizes_and_the_file(tmp_path: Path) -> None:
    image(tmp_path / "in/a.tif")
    mask(tmp_path / "in/a_mask.png", size=(31, 40))
    with pytest.raises(PairsError, match=r"a\.tif: a_mask\.png is 40 x 31 pixels and the image 40 x 30"):
        read(tmp_path, tmp_path / "in")


def test_every_bad_pair_is_named_after_the_good_ones_were_read(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / f"in/{name}.tif")
        mask(tmp_path / f"in/{name}_mask.png", size=SIZE if name == "b" else (31, 40))
    pages = read_pages(find_pairs([tmp_path / "in"], tmp_path).pairs)
    assert next(pages).name == "b.tif"
    with pytest.raises(
        PairsError, match=r"a\.tif: a_mask\.png is 40 x 31 .*; c\.tif: c_mask\.png is 40 x 31"
    ):
        next(pages)


@pytest.mark.parametrize("ending", ["_mask.png", ".ome_mask.png", "_mask.ome.tif", "_label.tif"])
def test_an_ome_tiff_is_an_image_and_not_its_own_mask(tmp_path: Path, ending: str) -> None:
    image(tmp_path / "in/a.ome.tif", 1)
    mask(tmp_path / f"in/a{ending}", 1)
    image(tmp_path / "in/b.tif")
    image(tmp_path / "in/b.ome.tif")
    found = find_pairs([tmp_path / "in"], tmp_path)
    assert_pages(list(read_pages(found.pairs)), {"a.ome.tif": 1})
    assert list(found.without_truth) == ["b.ome.tif", "b.tif"]


@pytest.mark.parametrize("named_one_by_one", [True, False])
def test_outputs_of_cytomask_are_neither_images_nor_truths(tmp_path: Path, named_one_by_one: bool) -> None:
    folder = tmp_path / "in"
    image(folder / "a.tif", 1)
    image(folder / "b.tif")
    outputs = [
        output_key(image, ending, page)
        for image in ("a.tif", "b.tif")
        for page in (None, 2)
        for ending in [RESULT, *(each for files in OUTPUT_FILES.values() for each in files.values())]
    ]
    for name in outputs:
        (folder / name).write_bytes(b"not to be opened")
    given = sorted(folder.iterdir()) if named_one_by_one else [folder]
    with pytest.raises(PairsError, match=r"b\.tif\.mask\.png.*: if you corrected it, rename it likewise"):
        find_pairs(given, tmp_path)
    given.append(mask(tmp_path / "in/a_mask.png", 1))
    found = find_images_and_truths(given if named_one_by_one else [folder], tmp_path)
    assert_pages(list(read_pages(found.pairs)), {"a.tif": 1})
    assert list(found.without_truth) == ["b.tif"]
    assert found.outputs == sorted(outputs)


def test_a_folder_of_truths_may_hold_corrected_masks_by_cytomask(tmp_path: Path) -> None:
    image(tmp_path / "pictures/a.tif", 1)
    mask(tmp_path / "masks/a.tif.mask.png", 1)
    mask(tmp_path / "masks/a.tif.labels.tif", 2)
    image(tmp_path / "pictures/b.tif", 3)
    mask(tmp_path / "masks/b.labels.tif", 3)
    assert_pages(read(tmp_path, tmp_path / "pictures", tmp_path / "masks"), {"a.tif": 1, "b.tif": 3})


def test_a_file_of_cellpose_without_an_image_is_named(tmp_path: Path) -> None:
    image(tmp_path / "in/a.tif")
    seg(tmp_path / "in/b_seg.npy")
    assert find_images_and_truths([tmp_path / "in"], tmp_path).without_image == ["b_seg.npy"]


def test_names_that_fit_several_masks_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "in/a.tif")
    mask(tmp_path / "in/a_mask.png")
    mask(tmp_path / "in/a_masks.png")
    with pytest.raises(PairsError, match=r"a\.tif \(a_mask\.png, a_masks\.png\)"):
        find_pairs([tmp_path / "in"], tmp_path)


def test_a_folder_without_pairs_is_refused_with_advice(tmp_path: Path) -> None:
    image(tmp_path / "in/a.tif")
    with pytest.raises(PairsError, match=r"Name the mask of a\.tif a_mask\.png"):
        find_pairs([tmp_path / "in"], tmp_path)
    with pytest.raises(PairsError, match="nowhere does not exist"):
        find_pairs([tmp_path / "nowhere"], tmp_path)


def zarr(path: Path) -> Path:
    (path / "0").mkdir(parents=True)
    (path / ".zgroup").write_text("{}")
    image(path / "0" / "0.tif")  # a chunk
    return path


@pytest.mark.parametrize("layout", ["one folder", "two folders", "COCO"])
def test_ome_zarr_is_named_and_its_chunks_are_no_images(tmp_path: Path, layout: str) -> None:
    image(tmp_path / "in" / "a.tif")
    zarr(tmp_path / "in" / "deep" / "b.zarr")
    truths = tmp_path / ("in" if layout == "one folder" else "masks")
    mask(truths / ("a_mask.png" if layout == "one folder" else "a.png"))
    paths = [tmp_path / "in", truths] if layout == "two folders" else [tmp_path / "in"]
    if layout == "COCO":
        paths = [tmp_path / "coco.json", *paths]
        entry = {"id": 1, "file_name": "a.tif", "height": SIZE[0], "width": SIZE[1]}
        cell = {"id": 1, "image_id": 1, "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}
        paths[0].write_text(json.dumps({"images": [entry], "annotations": [cell]}))
    found = find_images_and_truths(paths, tmp_path)
    assert found.zarrs == ["b.zarr"]
    images = [*(pair.name for pair in found.pairs), *found.without_truth]
    assert images == ["a.tif"]


def test_a_folder_of_ome_zarr_alone_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"b\.zarr: OME-Zarr is not read, export it as OME-TIFF"):
        find_pairs([zarr(tmp_path / "b.zarr")], tmp_path)


def test_one_of_several_channels_is_read(tmp_path: Path) -> None:
    channels = np.stack([np.zeros(SIZE, np.uint16), np.full(SIZE, 7, np.uint16)])
    tifffile.imwrite(tmp_path / "a.tif", channels, imagej=True, metadata={"axes": "CYX"})
    mask(tmp_path / "a_mask.png")
    pairs = find_pairs([tmp_path], tmp_path).pairs
    [page] = read_pages(pairs, channel=1)
    assert (page.pixels == 7).all()
    [(_, pixels)] = read_plain_pages("a.tif", tmp_path / "a.tif", 1)
    assert (pixels == 7).all()
    with pytest.raises(PairsError, match="has 2 channels"):
        list(read_pages(pairs))
