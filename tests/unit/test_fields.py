"""The properties of generated fields that the demo and other tests rely on."""

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytomask.samples.fields import CULTURES, DEMO, Field, Sample, phase_contrast_field, write_samples
from cytomask.work import ground_truth_keys

SEEDS = range(len(CULTURES))
LARGEST_OF_12_BITS = 4095
SOME_SPECKS = 20  # pixels


def small_field(seed: int = 0, confluence: float = 0.3) -> Field:
    return phase_contrast_field(seed, 240, 320, confluence)


def grown(cells: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """(H, W) bool: `cells`, grown by that many rows and columns."""
    near = np.pad(cells, pixels)
    for axis in (0, 1):
        near = np.any([np.roll(near, step, axis) for step in range(-pixels, pixels + 1)], axis=0)
    return near[pixels:-pixels, pixels:-pixels]


def steepness(pixels: NDArray[np.uint16]) -> NDArray[np.float64]:
    """(H, W) float64: grey levels per pixel."""
    down, right = np.gradient(pixels.astype(np.float64))
    slopes: NDArray[np.float64] = np.hypot(down, right)
    return slopes


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return write_samples(tmp_path_factory.mktemp("samples"))


def test_the_same_seed_gives_the_same_field() -> None:
    first, again = small_field(seed=5), small_field(seed=5)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.cells, again.cells)


def test_another_seed_of_the_same_culture_gives_another_field() -> None:
    first, other = small_field(seed=1), small_field(seed=1 + len(CULTURES))
    assert not np.array_equal(first.pixels, other.pixels)
    assert not np.array_equal(first.cells, other.cells)


def test_a_field_has_the_size_and_the_types_of_a_camera_page() -> None:
    field = phase_contrast_field(0, 100, 130)
    assert field.pixels.shape == field.cells.shape == (100, 130)
    assert field.pixels.dtype == np.uint16
    assert field.cells.dtype == np.bool_


def test_twelve_bits_are_stretched_into_sixteen() -> None:
    pixels = small_field().pixels
    assert not np.any(pixels % 16)
    assert pixels.max() > LARGEST_OF_12_BITS


@pytest.mark.parametrize("seed", SEEDS)
def test_the_background_lies_in_the_middle_of_the_range(seed: int) -> None:
    field = small_field(seed)
    assert np.median(field.pixels[~field.cells]) == pytest.approx(2048 * 16, rel=0.02)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("confluence", [0.05, 0.3, 0.6, 0.9])
def test_confluence_is_met_to_within_a_cell(seed: int, confluence: float) -> None:
    cells = small_field(seed, confluence).cells
    largest = 2 * np.pi * CULTURES[seed].radius[1] ** 2  # pixels; corners reach beyond the mean radius
    assert confluence <= cells.mean() < confluence + largest / cells.size


@pytest.mark.parametrize("seed", SEEDS)
def test_without_confluence_there_is_a_page_but_no_cell(seed: int) -> None:
    field = small_field(seed, confluence=0)
    assert not field.cells.any()
    assert field.pixels.std() > 0


@pytest.mark.parametrize("confluence", [-0.1, 0.95, float("nan")])
def test_a_confluence_that_cannot_be_reached_is_refused(confluence: float) -> None:
    with pytest.raises(ValueError, match="confluence"):
        small_field(confluence=confluence)


@pytest.mark.parametrize("seed", SEEDS)
def test_cells_have_more_texture_than_the_background(seed: int) -> None:
    field = small_field(seed)
    slopes = steepness(field.pixels)
    assert np.median(slopes[field.cells]) > 4 * np.median(slopes[~grown(field.cells, 8)])


def test_rounded_cells_are_dark_inside_a_bright_ring() -> None:
    field = phase_contrast_field(seed=1, confluence=0.15)
    background = ~grown(field.cells, 8)
    body = ~grown(~field.cells, 4)
    ring = grown(field.cells, 1) & grown(~field.cells, 2)
    grey = np.median(field.pixels[background])
    spread = field.pixels.std()
    assert field.pixels[body].mean() < grey - 0.5 * spread
    assert field.pixels[ring].mean() > grey + 0.5 * spread


def test_debris_is_not_in_the_ground_truth() -> None:
    field = phase_contrast_field(seed=1, confluence=0)
    grey, noise = np.median(field.pixels), 1.48 * np.median(abs(field.pixels - np.median(field.pixels)))
    assert np.count_nonzero(field.pixels < grey - 10 * noise) > SOME_SPECKS
    assert not field.cells.any()


def test_every_sample_is_a_packed_page_of_sixteen_bits(samples: list[Sample]) -> None:
    for sample in samples:
        with tifffile.TiffFile(sample.image) as file:
            assert file.pages.first.compression == tifffile.COMPRESSION.LZW
            pixels = file.asarray()
        assert pixels.dtype == np.uint16
        assert pixels.shape == (520, 704)


def test_samples_are_the_fields_of_their_seeds(samples: list[Sample]) -> None:
    field = phase_contrast_field(DEMO[samples[0].key][0], confluence=DEMO[samples[0].key][1])
    assert np.array_equal(tifffile.imread(samples[0].image), field.pixels)
    mask = np.asarray(Image.open(samples[0].ground_truth))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, 255 * field.cells)


def test_every_sample_is_written_under_its_key(samples: list[Sample]) -> None:
    assert [sample.key for sample in samples] == list(DEMO)
    for sample in samples:
        assert sample.image.as_posix().endswith(f"/images/{sample.key}")


def test_every_ground_truth_lies_where_it_is_looked_for(samples: list[Sample]) -> None:
    for sample in samples:
        _, key = sample.ground_truth.as_posix().split("/ground_truth/")
        assert key in ground_truth_keys(sample.key)
        assert sample.ground_truth.is_file()


@pytest.mark.parametrize("trap", [" ", "+", "ü", "/"])
def test_the_samples_keys_hold_what_breaks_keys(trap: str) -> None:
    assert any(trap in key for key in DEMO)
