"""Cellpose's `_seg.npy` is read without running any code in it."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytomask.errors import GroundTruthMismatch, UnreadableImage
from cytomask.truths.cellpose import read_cellpose


def seg(folder: Path, **content: Any) -> Path:
    """Write a file as Cellpose does."""
    path = folder / "a_seg.npy"
    np.save(path, content, allow_pickle=True)  # type: ignore[arg-type]  # Cellpose saves a dictionary
    return path


def labels() -> Any:
    masks = np.zeros((30, 40), np.uint16)
    masks[3:9, 4:20], masks[20:25, 30:35] = 1, 7
    return masks


def test_every_labelled_pixel_is_cell_whatever_else_the_file_holds(tmp_path: Path) -> None:
    path = seg(
        tmp_path,
        masks=labels(),
        outlines=labels(),
        flows=[labels().astype(np.float32), [1, (2, {3})]],
        est_diam=np.float64(30.5),
        ismanual=np.zeros(2, bool),
        filename="a.tif",
        normalize_params=OrderedDict(lowhigh=None, sharpen=0),
        mixed=np.array([labels(), "text"], dtype=object),
    )
    cells = read_cellpose(path, (30, 40))
    assert cells.dtype == np.bool_
    np.testing.assert_array_equal(cells, labels() > 0)


class Runs:
    """An object that is pickled as a call."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (Runs(os.system, "touch ran"), "posix.system"),
        (Runs(eval, "open('ran', 'w')"), "builtins.eval"),
        (Runs(np.load, "x", None, True), "numpy.load"),
        (Runs(getattr, "text", "upper"), "builtins.getattr"),
    ],
)
def test_a_file_that_names_anything_else_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Runs, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableImage, match=f"names {named}, which masks of Cellpose do not need"):
        read_cellpose(seg(tmp_path, masks=labels(), extra=harm), (30, 40))
    assert not Path("ran").exists()


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"not a _seg\.npy"):
        read_cellpose(seg(tmp_path, masks=labels(), huge=Runs(np.ndarray, (10**13,))), (30, 40))


def test_masks_of_another_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(GroundTruthMismatch, match="are 40 x 30 pixels and the image is 50 x 30"):
        read_cellpose(seg(tmp_path, masks=labels()), (30, 50))


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00", b"GIF89a", b"\x93NUMPY\x01\x00\x10\x00{'descr': oh no}"]
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a_seg.npy"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"a_seg\.npy is not a _seg\.npy of Cellpose"):
        read_cellpose(path, (30, 40))


def test_a_plain_array_and_a_file_without_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.npy"
    np.save(path, labels())
    with pytest.raises(UnreadableImage, match="holds an array instead of masks"):
        read_cellpose(path, (30, 40))
    with pytest.raises(UnreadableImage, match="has no `masks` of Cellpose"):
        read_cellpose(seg(tmp_path, outlines=labels()), (30, 40))
