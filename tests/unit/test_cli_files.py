"""Find the images of a folder, and report the other files."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from cytomask.cli.files import (
    SUFFIXES,
    count_of,
    describe_passed_over,
    find_clashes,
    find_images,
    write_whole,
)
from cytomask.output_names import OUTPUT_FILES, RESULT, output_key


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path) -> list[str]:
    return [below.as_posix() for _, below in find_images([folder]).images]


def test_every_ending_of_the_readers_is_an_image(tmp_path: Path) -> None:
    names = [
        "a.tif",
        "b.TIFF",
        "c.stk",
        "d.lsm",
        "e.btf",
        "f.tf8",
        "g.png",
        "h.jpg",
        "i.jpeg",
        "j.jfif",
        "k.jpe",
        "l.ome.tif",
    ]
    make(tmp_path, *names)
    assert found(tmp_path) == sorted(names)


def test_other_files_are_counted_by_kind(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.tif",
        "b.czi",
        "c.CZI",
        "notes.txt",
        ".DS_Store",
        "README",
        "p/._a.tif",
        "p/a.tif.mask.png",
        "p/platemap.csv",
    )
    result = find_images([tmp_path])
    assert len(result.images) == 1
    assert result.passed_over == {
        ".czi": 2,
        ".txt": 1,
        ".DS_Store": 1,
        "without an ending": 1,
        "._ of macOS": 1,
        "written by cytomask": 1,
        "plate map": 1,
    }
    said = describe_passed_over(result.passed_over)
    assert said.startswith("passed over 8 files: ")
    assert {"2 .czi", "1 ._ of macOS", "1 .DS_Store"} <= set(said.partition(": ")[2].split(", "))


def test_a_zarr_is_passed_over_as_one_thing_with_what_to_do(tmp_path: Path) -> None:
    make(tmp_path, "a.tif", "b.zarr/0/0/0.tif", "c/zarr.json", "c/0/c/0/0")
    result = find_images([tmp_path])
    assert [below for _, below in result.images] == [Path("a.tif")]
    assert describe_passed_over(result.passed_over) == (
        "passed over 2 files: 2 OME-Zarr (not read; export it as OME-TIFF)"
    )
    assert find_images([tmp_path / "c"]).passed_over.total() == 1


def test_outputs_and_macos_files_are_passed_over_even_if_a_shell_named_them(tmp_path: Path) -> None:
    make(tmp_path, "a.tif", "._a.tif", "a.tif.mask.png", "a.tif.p0001.overlay.png", "a.tif.probability.png")
    result = find_images(sorted(tmp_path.iterdir()))
    assert [path.name for path, _ in result.images] == ["a.tif"]
    assert result.passed_over == {"._ of macOS": 1, "written by cytomask": 3}


def test_no_output_of_cytomask_is_an_image(tmp_path: Path) -> None:
    outputs = [
        output_key("a.tif", ending, page)
        for page in (None, 3)
        for ending in [RESULT, *(each for files in OUTPUT_FILES.values() for each in files.values())]
    ]
    make(tmp_path, "a.tif", *outputs)
    result = find_images([tmp_path], SUFFIXES | {".csv", ".json", ".zip", ".geojson"})
    assert [path.name for path, _ in result.images] == ["a.tif"]
    assert result.passed_over == {"written by cytomask": len(outputs)}


@pytest.mark.parametrize("named_by_a_shell", [True, False])
def test_masks_beside_their_images_are_passed_over(tmp_path: Path, named_by_a_shell: bool) -> None:
    masks = [f"p/Zelle 1 ü{end}" for end in ("_mask.png", "_masks.tif", "_cp_masks.png", "_label.png")]
    make(tmp_path, "p/Zelle 1 ü.tif", *masks, "p/Zelle 1 ü_seg.npy")
    result = find_images(sorted((tmp_path / "p").iterdir()) if named_by_a_shell else [tmp_path])
    assert [path.name for path, _ in result.images] == ["Zelle 1 ü.tif"]
    assert result.passed_over == {"named as the mask of another image": 4, "saved by Cellpose": 1}


def test_an_image_that_only_looks_like_a_mask_is_an_image(tmp_path: Path) -> None:
    names = ["a/x.ome.tif", "a/x.tif", "a/x.tif.png", "a/y_mask.tif", "b/y.tif", "b/z_label.tif"]
    make(tmp_path, *names)
    assert found(tmp_path) == names
    make(tmp_path, "c/y.czi", "c/y_mask.png", "c/x.ome.tif", "c/x.ome_mask.png")
    assert [path.name for path, _ in find_images([tmp_path / "c"]).images] == ["x.ome.tif"]
    assert [path.name for path, _ in find_images([tmp_path / "c/y_mask.png"]).images] == ["y_mask.png"]


def test_ground_truths_may_be_corrected_masks_and_lie_beside_images(tmp_path: Path) -> None:
    make(tmp_path, "a.tif", "a_mask.png", "b.labels.tif", "a.tif.mask.png", "a.tif.labels.tif")
    result = find_images([tmp_path], truths=True)
    assert [path.name for path, _ in result.images] == [
        "a.tif",
        "a.tif.mask.png",
        "a_mask.png",
        "b.labels.tif",
    ]
    assert result.passed_over == {"written by cytomask": 1}


def test_unreadable_files_are_counted_and_affect_no_other(tmp_path: Path) -> None:
    make(tmp_path, "a.tif", "d/b.tif")
    (tmp_path / "gone.tif").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.tif")
    result = find_images([tmp_path])
    assert [below.as_posix() for _, below in result.images] == ["a.tif", "d/b.tif"]
    assert result.passed_over["broken link"] == 1
    assert result.passed_over["not a plain file"] == 1


def test_a_deep_tree_is_walked_to_its_end(tmp_path: Path) -> None:
    make(tmp_path, "/".join(["d"] * 300) + "/deep.tif")
    assert len(found(tmp_path)) == 1


def test_nothing_is_printed_if_no_file_was_skipped() -> None:
    assert describe_passed_over(Counter()) == ""
    assert describe_passed_over(Counter({".czi": 1})) == "passed over 1 file: 1 .czi"
    assert [count_of(1, "image"), count_of(2, "image")] == ["1 image", "2 images"]


def test_two_names_for_one_file_of_another_system_clash() -> None:
    pairs = [(Path("1"), Path("o/ü.tif")), (Path("2"), Path("o") / unicodedata.normalize("NFD", "Ü.tif"))]
    assert find_clashes(pairs) == {Path("o/ü.tif"): [Path("1"), Path("2")]}
    assert find_clashes([(Path("1"), Path("a")), (Path("2"), Path("b"))]) == {}


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", b"rows")
    assert os.read(reading, 100) == b"rows"
    os.close(reading)
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to("there.csv")
    write_whole(tmp_path / "link.csv", b"rows")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "there.csv").read_bytes() == b"rows"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "deep" / "a", b"old")

    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "deep" / "a", b"new")
    assert (tmp_path / "deep" / "a").read_bytes() == b"old"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]
