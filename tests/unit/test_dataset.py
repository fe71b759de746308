"""The labelled images: found or named as missing, and cropped together with their masks."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.preprocess import TILE, normalise
from training.dataset import Augmentation, Labelled, load_index, random_batch, random_crop

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
GEOMETRY_ONLY = Augmentation(noise=0, repage=0, contrast=0, brightness=0)
COLUMNS = ("source", "split", "image", "mask")


def write_data(
    folder: Path, rows: list[tuple[str, str, str, str]], shape: tuple[int, int] = (20, 30)
) -> Path:
    """An index with these rows, and their files but for those whose names contain `missing`."""
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *rows])
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for _, _, image, mask in rows:
        for name, pixels in ((image, grey), (mask, (grey > 127).astype(np.uint8) * 255)):
            if "missing" not in name:
                (folder / name).parent.mkdir(exist_ok=True)
                Image.fromarray(pixels).save(folder / name)
    return folder


def blobs(height: int = 300, width: int = 400, seed: int = 0) -> Labelled:
    """An image that is bright exactly where its mask is true, in shapes without any symmetry."""
    coarse = np.random.default_rng(seed).random((height // 20 + 1, width // 20 + 1)) < 0.4
    cells = coarse.repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
    return Labelled("blobs", normalise(cells), cells)


def test_the_rows_of_the_sources_are_read(tmp_path: Path) -> None:
    rows = [
        ("ours", "train", "i/a.b.png", "m/a.png"),
        ("ours", "val", "i/c.png", "m/c.png"),
        ("theirs", "train", "i/d.png", "m/d.png"),
    ]
    items = load_index(write_data(tmp_path, rows), ["ours/train", "theirs/train"])
    assert [item.name for item in items] == ["a.b", "d"]
    assert items[0].pixels.shape == items[0].cells.shape == (20, 30)
    assert items[0].pixels.mean() == pytest.approx(0, abs=1e-6)
    grey = np.asarray(Image.open(tmp_path / "i/a.b.png"))
    assert np.array_equal(items[0].cells, grey > 127)


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    rows = [
        ("ours", "train", "i/missing1.png", "m/a.png"),
        ("ours", "train", "i/b.png", "m/missing2.png"),
        ("ours", "val", "i/missing3.png", "m/c.png"),
    ]
    write_data(tmp_path, rows)
    with pytest.raises(FileNotFoundError, match=r"lacks 2 listed files: i/missing1\.png, m/missing2\.png$"):
        load_index(tmp_path, ["ours/train"])


def test_sources_without_rows_are_named(tmp_path: Path) -> None:
    write_data(tmp_path, [("ours", "train", "i/a.png", "m/a.png")])
    with pytest.raises(ValueError, match=r"index\.csv has no rows for ours/test, theirs/train"):
        load_index(tmp_path, ["ours/train", "theirs/train", "ours/test"])


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    write_data(tmp_path, [("ours", "train", "i/a.png", "m/a_mask.png")])
    Image.new("L", (31, 20)).save(tmp_path / "m/a_mask.png")
    with pytest.raises(ValueError, match=r"a\.png is \(20, 30\) but its mask a_mask\.png is \(20, 31\)"):
        load_index(tmp_path, ["ours/train"])


@pytest.mark.parametrize("shape", [(300, 400), (224, 224), (100, 90), (50, 500)])
def test_crops_have_the_size_of_a_tile(shape: tuple[int, int]) -> None:
    pixels, cells = random_batch([blobs(*shape)], 5, Augmentation(), np.random.default_rng(0))
    assert pixels.shape == cells.shape == (5, 1, TILE, TILE)
    assert pixels.dtype == cells.dtype == np.float32
    assert np.isfinite(pixels).all()
    assert set(np.unique(cells)) == {0, 1}


@pytest.mark.parametrize("shape", [(300, 400), (100, 90)])
def test_image_and_mask_move_together(shape: tuple[int, int]) -> None:
    item = blobs(*shape)
    rng = np.random.default_rng(0)
    middle = (item.pixels.min() + item.pixels.max()) / 2
    for _ in range(40):
        pixels, cells = random_crop(item, GEOMETRY_ONLY, rng)
        assert np.mean((pixels > middle) == (cells > 0)) > 0.999


def test_every_symmetry_of_the_square_is_taken() -> None:
    item = blobs(TILE, TILE)
    whole = Augmentation(zoom=(1, 1), squash=0, noise=0, repage=0, contrast=0, brightness=0)
    rng = np.random.default_rng(0)
    taken = {random_crop(item, whole, rng)[1].tobytes() for _ in range(100)}
    turns = [np.rot90(item.cells, turn).astype(np.float32) for turn in range(4)]
    assert taken == {turned.tobytes() for turn in turns for turned in (turn, turn[:, ::-1])}


def test_a_squashed_crop_shows_the_whole_image() -> None:
    item = blobs(500, 700)
    squashed = Augmentation(squash=1, noise=0, repage=0, contrast=0, brightness=0)
    pixels, cells = random_crop(item, squashed, np.random.default_rng(0))
    assert cells.mean() == pytest.approx(item.cells.mean(), abs=0.01)
    assert pixels.mean() == pytest.approx(0, abs=0.01)


def test_a_repaged_crop_is_normalised_as_a_page() -> None:
    repaged = Augmentation(repage=1, contrast=0, brightness=0)
    pixels, _ = random_crop(blobs(), repaged, np.random.default_rng(0))
    assert pixels.mean() == pytest.approx(0, abs=1e-5)
    assert pixels.std() == pytest.approx(1, abs=1e-5)


def test_augmentation_leaves_the_image_as_it_was() -> None:
    item, untouched = blobs(), blobs()
    random_batch([item], 20, Augmentation(), np.random.default_rng(0))
    assert np.array_equal(item.pixels, untouched.pixels)
    assert np.array_equal(item.cells, untouched.cells)


def test_the_seed_decides_every_crop() -> None:
    pool = [blobs(seed=seed) for seed in range(3)]
    first, again, other = (
        random_batch(pool, 4, Augmentation(), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.skipif(not (DATA / "index.csv").is_file(), reason=f"no real images: {DATA} is not there")
def test_the_real_images_fit_their_masks() -> None:
    items = load_index(DATA, ["livecell/train", "usiigaci/val", "deepcell/val"])
    with (DATA / "index.csv").open(newline="") as file:
        foreground = {Path(row["image"]).stem: float(row["foreground"]) for row in csv.DictReader(file)}
    assert len(items) == 5 + 4 + 3
    for item in items:
        assert item.pixels.std(dtype=np.float64) == pytest.approx(1, abs=1e-3)
        assert item.cells.mean() == pytest.approx(foreground[item.name], abs=1e-3)
