"""One ground truth gives the same cells to training, to the evaluate function and to the report."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import examples
from factories import GROUND_TRUTH, HEIGHT, WIDTH, png, tiff
from functions_on_moto import EvaluateFunction, SegmentStack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cytomask.metrics import Mask, score
from cytomask.training.sources import read_source

Labels = NDArray[np.uint8]
IMAGE = "a.tif"
FIXTURES = [HealthCheck.function_scoped_fixture]  # examples share a stack, each under its own name


def palette(labels: Labels) -> bytes:
    stream = io.BytesIO()
    image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    image.putpalette([255, 255, 255, 0, 0, 0, 200, 0, 0, 255, 255, 255])
    image.save(stream, "PNG")
    return stream.getvalue()


def alpha(labels: Labels) -> bytes:
    return png(np.dstack([np.full_like(labels, 255)] * 3 + [labels * 80]))


WRITERS: dict[str, Callable[[Labels], bytes]] = {
    "labels.png": png,
    "palette.png": palette,
    "alpha.png": alpha,
    "rgb.png": lambda labels: png(np.dstack([labels * 0, labels, labels * 0])),
    "bool.tif": lambda labels: tiff(labels > 0),
    "white.tif": lambda labels: tiff(labels, photometric="miniswhite"),
    "soft.tif": lambda labels: tiff(labels / np.float32(1000)),
    "colours.tif": lambda labels: tiff(
        labels, photometric="palette", colormap=np.eye(3, 256, k=1, dtype=np.uint16) * 65_535
    ),
}


def cells_of_training(folder: Path, source: str) -> Mask:
    """Read a ground truth like training and `training.evaluate`, which use the same samples."""
    (sample,) = read_source(folder, source)
    return sample.read()[1]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Make a folder with the image of the ground truths."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / IMAGE).write_bytes(tiff())
    return tmp_path


def random_labels(seed: int, kinds: int) -> Labels:
    """Draw blobs of labels 0 to `kinds`; 0 always occurs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, kinds + 1, (HEIGHT // 8, WIDTH // 8), np.uint8)
    coarse[0, 0] = 0
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def score_of(evaluate: EvaluateFunction, key: str, content: bytes) -> Any:
    """Upload and score a ground truth; return the evaluation's row."""
    known = {row["record"] for row in evaluate.stack.rows("EVAL#")}
    assert evaluate.upload(key, content) == []
    assert evaluate.deliver_queued() == []
    (row,) = [row for row in evaluate.stack.rows("EVAL#") if row["record"] not in known]
    return row


def counts(row: Any) -> dict[str, int]:
    return {name: int(row[name]) for name in ("true_positive", "false_positive", "false_negative")}


@pytest.mark.parametrize(
    "writer",
    [
        pytest.param(each, marks=[] if each in ("palette.png", "white.tif") else [pytest.mark.slow])
        for each in WRITERS
    ],
)
@settings(max_examples=examples(5), suppress_health_check=FIXTURES)
@given(seed=st.integers(0, 999), kinds=st.integers(1, 3))
def test_every_reader_gets_the_same_cells_from_a_mask(
    stack: SegmentStack, evaluate: EvaluateFunction, files: Path, writer: Any, seed: int, kinds: Any
) -> None:
    labels = random_labels(seed, kinds)
    content, suffix = WRITERS[writer](labels), Path(writer).suffix
    image = f"{writer}-{seed}-{kinds}.tif"
    stack.segment(image, tiff())
    masks = files / f"masks-{seed}-{kinds}"
    masks.mkdir(exist_ok=True)
    (masks / f"a_masks{suffix}").write_bytes(content)
    cells = cells_of_training(files, f"pairs:images:{masks.name}")
    np.testing.assert_array_equal(cells, labels != 0)
    row = score_of(evaluate, f"{Path(image).stem}_mask.png", content)
    assert row["evaluation_status"] == "SCORED"
    assert counts(row) == asdict(score(stack.mask(f"{image}.mask.png") > 0, cells))


corner = st.tuples(st.integers(-9, WIDTH + 9), st.integers(-9, HEIGHT + 9))
polygon = st.lists(corner, min_size=3, max_size=6).map(lambda points: [float(x) for at in points for x in at])
runs = st.lists(st.integers(0, HEIGHT * WIDTH), max_size=6).map(
    lambda cuts: {
        "size": [HEIGHT, WIDTH],
        "counts": [int(each) for each in np.diff([0, *sorted(cuts), HEIGHT * WIDTH])],
    }
)
odd = st.sampled_from(
    [None, [], [[1, 1, 2]], [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]], {"size": [1, 1], "counts": ""}]
)
segmentation = st.one_of(st.lists(polygon, min_size=1, max_size=2), runs, odd)


@settings(max_examples=examples(12), suppress_health_check=FIXTURES)
@given(
    segmentations=st.lists(segmentation, min_size=1, max_size=3),
    image_id=st.sampled_from([1, "1", 1.0]),
    by_id=st.booleans(),
    mark=st.booleans(),
)
def test_every_reader_gets_the_same_cells_from_a_coco_file(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    files: Path,
    segmentations: Any,
    image_id: Any,
    by_id: Any,
    mark: Any,
) -> None:
    number = len(stack.rows("JOB"))
    name = f"image-{number}.tif"
    stack.segment(name, tiff())
    listed = [{"id": 1, "file_name": name, "width": float(WIDTH), "height": HEIGHT}]
    cells = [{"id": at, "image_id": image_id, "segmentation": each} for at, each in enumerate(segmentations)]
    annotations = {str(at): each for at, each in enumerate(cells)} if by_id else cells
    text = json.dumps({"images": listed, "annotations": annotations, "number": number})
    content = text.encode("utf-8-sig" if mark else "utf-8")
    folder = files / f"coco-{number}"
    folder.mkdir()
    (folder / name).write_bytes(tiff())
    (folder / "truth.json").write_bytes(content)
    row = score_of(evaluate, f"{number}.json", content)
    try:
        drawn = cells_of_training(folder, "coco:truth.json:.")
    except ValueError as error:
        assert row["evaluation_status"] == "REJECTED"
        reason = row["error"].replace(f"s3://{GROUND_TRUTH}/{number}.json", "truth.json")
        assert reason in str(error)
        return
    assert row["evaluation_status"] == "SCORED"
    assert counts(row) == asdict(score(stack.mask(f"{name}.mask.png") > 0, drawn))
    key = row["ground_truth_mask"].partition("//")[2].partition("/")[2]
    np.testing.assert_array_equal(stack.mask(key) > 0, drawn)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (tiff(np.ones((HEIGHT, WIDTH), np.uint8) + np.eye(HEIGHT, WIDTH, dtype=np.uint8)), "NO_BACKGROUND"),
        (
            png(np.dstack([np.eye(64, 80) * 255] * 3 + [np.eye(64, 80, 1) * 255]).astype(np.uint8)),
            "AMBIGUOUS_CHANNELS",
        ),
        (tiff(np.eye(HEIGHT + 1, WIDTH, dtype=np.uint8)), "GROUND_TRUTH_MISMATCH"),
    ],
)
def test_both_readers_refuse_a_file_for_the_same_reason(
    stack: SegmentStack, evaluate: EvaluateFunction, files: Path, content: Any, code: str
) -> None:
    stack.segment(IMAGE, tiff())
    row = score_of(evaluate, "a.png", content)
    assert (row["evaluation_status"], row["error_code"]) == ("REJECTED", code)
    (files / "masks").mkdir()
    (files / "masks" / "a.tif").write_bytes(content)
    with pytest.raises(ValueError, match=r"^a\.tif: ") as refused:
        cells_of_training(files, "pairs:images:masks")
    assert str(refused.value) == f"a.tif: {row['error'].replace(f's3://{GROUND_TRUTH}/a.png', 'a.tif')}"
