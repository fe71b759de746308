"""Scores come from the predictor that serves, and the manifest's can be made again."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from infra.samples import phase_contrast_field
from model.predictor import Predictor
from training.evaluate import evaluate

DATA = Path(__file__).parents[3] / "shared" / "data"


def write_pair(folder: Path, seed: int) -> None:
    """Adds a generated field and its ground truth to the folder's index."""
    field = phase_contrast_field(seed, 240, 260, 0.4)
    tifffile.imwrite(folder / f"{seed}.tif", field.pixels)
    Image.fromarray(field.cells.astype(np.uint8) * 255).save(folder / f"{seed}.png")
    index = folder / "index.csv"
    begun = index.is_file()
    with index.open("a", newline="") as file:
        rows = csv.writer(file)
        if not begun:
            rows.writerow(["source", "split", "image", "mask"])
        rows.writerow(["made", "val", f"{seed}.tif", f"{seed}.png"])


def test_the_mean_is_over_images_and_every_image_is_named(tmp_path: Path, shipped: Predictor) -> None:
    for seed in (1, 2):
        write_pair(tmp_path, seed)
    scores = evaluate(shipped, tmp_path, ["made/val"])["made/val"]
    assert scores["images"] == 2
    assert list(scores["iou"]) == ["1.tif", "2.tif"]
    for mode in ("native", "resize"):
        mean = np.mean([image[mode] for image in scores["iou"].values()])
        assert scores["mean_iou"][mode] == pytest.approx(mean, abs=1e-4)


@pytest.mark.skipif(not (DATA / "index.csv").is_file(), reason=f"no real images: {DATA} is not there")
def test_the_shipped_weights_score_on_livecell_what_their_manifest_says(shipped: Predictor) -> None:
    source = "livecell/test"
    said = shipped.manifest.scores[source]
    found = evaluate(shipped, DATA, [source])[source]
    assert found["images"] == said["images"] == 8
    for mode, mean in said["mean_iou"].items():
        assert found["mean_iou"][mode] == pytest.approx(mean, abs=1e-3)
