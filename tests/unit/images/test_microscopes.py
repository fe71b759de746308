"""CZI, ND2 and LIF are read with pages, channels and pixel sizes, or refused with a reason."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from microscope_files import write_czi, write_lif, write_nd2

import cytomask
from cytomask import images, microscopes
from cytomask.cli.main import main
from cytomask.errors import AmbiguousChannels, NoSuchPage, UnreadableImage
from cytomask.images import PlaneFacts
from cytomask.microscopes import open_microscope
from cytomask.model.predictor import Predictor
from cytomask.samples.fields import phase_contrast_field
from cytomask.truths.pairs import find_pairs, read_pages, read_plain_pages

STACK = (np.arange(2 * 2 * 24 * 32).reshape(2, 2, 24, 32) * 21 % 60_000).astype(np.uint16)  # T, C, H, W
CHANNELS = {0: "Phase", 1: "GFP"}
WRITERS: dict[str, Callable[[Path, Any], None]] = {
    ".czi": lambda path, stack: write_czi(path, stack, pixel_um=0.65, channels=CHANNELS),
    ".lif": lambda path, stack: write_lif(path, stack, pixel_um=0.65),
    ".nd2": lambda path, stack: write_nd2(path, stack, pixel_um=0.65, channels=CHANNELS),
}
DATE = "2026-11-25T13:20:11"
FACTS = {
    ".czi": PlaneFacts("GFP", DATE, 60.0),
    ".lif": PlaneFacts(None, DATE, 60.0),
    ".nd2": PlaneFacts("GFP", elapsed_s=60.0),
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a{request.param}"
    WRITERS[request.param](path, STACK)
    return path


def test_pages_channels_and_pixel_size_are_those_written(written: Path) -> None:
    with open_microscope(written) as image:
        assert [(page.height, page.width, page.channels, page.dtype) for page in image.pages] == [
            (24, 32, 2, "uint16")
        ] * 2
        for header in image.pages:
            assert header.pixel_size
            assert header.pixel_size.area_um2 == pytest.approx(0.65**2)
        for page in range(2):
            for channel in range(2):
                assert np.array_equal(image.decode(page, channel), STACK[page, channel])
            assert np.array_equal(image.stored(page).values, np.moveaxis(STACK[page], 0, -1))
        assert image.facts(1, 1) == FACTS[written.suffix]


@pytest.mark.parametrize(("suffix", "channel"), [(".czi", "GFP"), (".lif", None)])
def test_a_file_without_times_has_no_date(tmp_path: Path, suffix: str, channel: str | None) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".czi":
        write_czi(path, STACK, pixel_um=0.65, channels=CHANNELS, timed=False)
    else:
        write_lif(path, STACK, pixel_um=0.65, timed=False)
    with open_microscope(path) as image:
        assert image.facts(1, 1) == PlaneFacts(channel)


def test_read_page_requires_page_and_channel_of_a_microscopes_file(written: Path) -> None:
    assert np.array_equal(cytomask.read_page(written, page=1, channel=0), STACK[1, 0])
    with pytest.raises(NoSuchPage, match="has 2 pages"):
        cytomask.read_page(written, channel=0)
    with pytest.raises(AmbiguousChannels):
        cytomask.read_page(written, page=0)


def test_a_damaged_file_is_refused_with_a_sentence(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:200])
    with pytest.raises(UnreadableImage, match=rf"a\{written.suffix} cannot be read .* export it as"):
        cytomask.read_page(written, page=0)


def test_a_tiff_that_is_named_like_a_microscopes_file_is_read_as_a_tiff(tmp_path: Path) -> None:
    for suffix in WRITERS:
        tifffile.imwrite(tmp_path / f"a{suffix}", STACK[0, 0])
        assert np.array_equal(cytomask.read_page(tmp_path / f"a{suffix}"), STACK[0, 0])


def test_metadata_that_breaks_its_reader_does_not_refuse_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.nd2"
    write_nd2(path, STACK, pixel_um=0.65, channels=CHANNELS, probes=False)
    with open_microscope(path) as image:
        assert image.pages[0].pixel_size is None
        assert np.array_equal(image.decode(0, 1), STACK[0, 1])


def test_without_its_reader_a_file_is_refused_with_the_extras_name(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microscopes, "find_spec", lambda _: None)
    with pytest.raises(UnreadableImage, match=r"pip install 'cytomask\[microscopes\]', or export it"):
        cytomask.read_page(written)


def test_a_folder_of_such_files_is_passed_over_with_the_extras_name(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(microscopes, "find_spec", lambda _: None)
    assert main(["segment", str(written.parent)]) == 2
    assert f"to read {written.suffix}: pip install 'cytomask[microscopes]'" in capsys.readouterr().err


def test_the_function_refuses_it_with_the_extras_name(written: Path) -> None:
    with (
        pytest.raises(UnreadableImage, match=r"pip install 'cytomask\[microscopes\]'; for a stack export it"),
        images.open_image(written.read_bytes(), f"s3://bucket/{written.name}"),
    ):
        pass


def test_the_command_segments_files_of_a_folder_with_their_areas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: Predictor
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cytomask.model.predictor.Predictor", lambda **_: shipped)
    pixels = phase_contrast_field(2, 96, 128).pixels
    Path("in").mkdir()
    for suffix, write in WRITERS.items():
        write(Path(f"in/a{suffix}"), np.stack([pixels, pixels])[None])
    assert main(["segment", "in", "--channel", "1", "--csv", "a.csv", "--outputs", "mask", "ome"]) == 0
    masks = sorted(Path("masks").glob("*.mask.png"))
    assert [mask.name for mask in masks] == [f"a{suffix}.mask.png" for suffix in sorted(WRITERS)]
    assert len({mask.read_bytes() for mask in masks}) == 1
    with Path("a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["cell_area_um2"]) / int(row["cell_pixels"]) for row in rows] == pytest.approx(
        [0.65**2] * 3
    )
    assert 'PhysicalSizeX="0.65"' in Path("masks/a.nd2.mask.ome.tif").read_bytes().decode("latin-1")


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_with_masks_beside_them_are_pairs(tmp_path: Path, suffix: str) -> None:
    pixels = STACK[:1, :1]
    WRITERS[suffix](tmp_path / f"a{suffix}", pixels)
    WRITERS[suffix](tmp_path / f"b{suffix}", pixels)
    tifffile.imwrite(tmp_path / "a_mask.tif", np.eye(24, 32, dtype=np.uint8))
    found = find_pairs([tmp_path], tmp_path)
    [page] = read_pages(found.pairs)
    assert (page.name, int(page.cells.sum())) == (f"a{suffix}", 24)
    np.testing.assert_array_equal(page.pixels, pixels[0, 0])
    [(name, path)] = found.without_truth.items()
    [(_, plain)] = read_plain_pages(name, path)
    np.testing.assert_array_equal(plain, pixels[0, 0])
