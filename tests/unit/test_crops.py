"""Random crops: image and mask move together, and each field causes its change."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from cytomask.model.preprocess import normalise
from cytomask.training.crops import GRAINY, Augmentation, Labelled, draw_crop, random_crop
from cytomask.training.experiment import TrainingConfig

ROOT = Path(__file__).parents[2]

SIDE = 224  # of the crops, in pixels
# One crop as stored in the source; tests add their own fields.
PLAIN = Augmentation(zoom=(1, 1), squash=0, flip=0, turn=False, noise=0, repage=0, contrast=0, brightness=0)


def changed(**fields: Any) -> Augmentation:
    return msgspec.structs.replace(PLAIN, **fields)


def blobs(height: int = 300, width: int = 400, seed: int = 0) -> Labelled:
    """Make an image that is bright exactly where its mask is true, in asymmetric shapes."""
    coarse = np.random.default_rng(seed).random((height // 20 + 1, width // 20 + 1)) < 0.4
    cells = coarse.repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
    return Labelled("blobs", normalise(cells), cells)


def numbered(height: int, width: int) -> Labelled:
    """Make an image without two equal pixels."""
    pixels = np.arange(height * width, dtype=np.float32).reshape(height, width)
    return Labelled("numbered", pixels, pixels % 2 > 0)


def placements(augmentation: Augmentation, side: int, count: int) -> NDArray[np.float64]:
    """Return crops of a square source: (count, 2, 3), x and y by column and by row, and of the middle."""
    ramps = [np.broadcast_to(np.arange(side, dtype=np.float32), (side, side)).copy()]
    ramps.append(ramps[0].T.copy())
    found = np.zeros((count, 2, 3))
    for axis, ramp in enumerate(ramps):
        rng = np.random.default_rng(0)
        for crop in range(count):
            tile = random_crop(Labelled("ramp", ramp, ramp > 0), SIDE, augmentation, rng)[0][0].astype(
                np.float64
            )
            at = SIDE // 2 - 1  # and the next one, between which the middle lies
            inner = tile[at : at + 2, at : at + 2]
            # Over 8 pixels, because OpenCV places a pixel to a thirty-second.
            across, down = (
                (tile[at, at + 4] - tile[at, at - 4]) / 8,
                (tile[at + 4, at] - tile[at - 4, at]) / 8,
            )
            found[crop, axis] = across, down, inner.mean()
    return found


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
        pixels, cells, _ = random_crop(item, SIDE, move, rng)
        assert pixels.shape == cells.shape == (1, SIDE, SIDE)
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
        pixels, cells, _ = random_crop(item, SIDE, PLAIN, rng)
        top, left = divmod(int(pixels[0, 0, 0]), 240)
        corners.add((top, left))
        window = (slice(top, top + SIDE), slice(left, left + SIDE))
        assert np.array_equal(pixels[0], item.pixels[window])
        assert np.array_equal(cells[0], item.cells[window])
    assert {top for top, _ in corners} == set(range(230 - SIDE + 1))
    assert {left for _, left in corners} == set(range(240 - SIDE + 1))


def test_a_page_smaller_than_a_tile_is_mirrored_around_its_middle() -> None:
    item = numbered(100, 90)
    pixels, cells, _ = random_crop(item, SIDE, PLAIN, np.random.default_rng(0))
    padding = ((62, 62), (67, 67))
    assert np.array_equal(pixels[0], np.pad(item.pixels, padding, mode="reflect"))
    assert np.array_equal(cells[0], np.pad(item.cells, padding, mode="reflect"))


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (224, 224), (223, 225)])
def test_pages_of_any_shape_can_be_cropped(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    item = Labelled("odd", rng.standard_normal(shape).astype(np.float32), np.ones(shape, np.bool_))
    wild = Augmentation(squash=0.5, squash_window=0.01, affine=1, blur=1, gamma=1)
    for _ in range(8):
        pixels, cells, _ = random_crop(item, SIDE, wild, rng)
        assert pixels.shape == (1, SIDE, SIDE)
        assert np.isfinite(pixels).all()
        assert cells.all()


def test_every_symmetry_of_the_square_is_taken_and_of_a_squashed_page_those_of_the_rectangle() -> None:
    item = blobs(SIDE, SIDE)
    rng = np.random.default_rng(0)
    taken = {random_crop(item, SIDE, changed(flip=0.5, turn=True), rng)[1].tobytes() for _ in range(60)}
    turns = [np.rot90(item.cells, turn).astype(np.float32) for turn in range(4)]
    assert taken == {turned.tobytes() for turn in turns for turned in (turn, turn[:, ::-1])}

    whole = changed(squash=1, flip=0.5, turn=True)
    squashed = {random_crop(item, SIDE, whole, rng)[1].tobytes() for _ in range(60)}
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
    # A pure rotation: the tile's rows and columns stay perpendicular and keep their length.
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
    middles = placements(shifted, side=SIDE, count=60)[:, :, 2] - (SIDE - 1) / 2
    limit = 0.1 * SIDE
    for axis in (0, 1):
        assert -limit - 0.1 < middles[:, axis].min() < -0.7 * limit
        assert 0.7 * limit < middles[:, axis].max() < limit + 0.1
    assert abs(np.asarray(np.corrcoef(middles.T))[0, 1]) < 0.5


def test_affine_is_the_probability_of_a_transform() -> None:
    found = placements(changed(affine=0.25, rotation=30), side=600, count=120)
    straight = np.abs(found[:, 1, 0]) < 1e-3
    assert 0.65 < straight.mean() < 0.85


def test_a_squashed_crop_shows_the_whole_image() -> None:
    item = blobs(500, 700)
    pixels, cells, _ = random_crop(item, SIDE, changed(squash=1), np.random.default_rng(0))
    assert cells.mean() == pytest.approx(item.cells.mean(), abs=0.01)
    assert pixels.mean() == pytest.approx(0, abs=0.01)


def test_a_squashed_window_has_its_share_of_the_image() -> None:
    columns = np.broadcast_to(np.arange(700, dtype=np.float32), (500, 700)).copy()
    item = Labelled("columns", columns, columns > 0)
    rng = np.random.default_rng(0)
    crops = [random_crop(item, SIDE, changed(squash=1, squash_window=0.6), rng)[0][0] for _ in range(40)]
    shares = [(crop[100, 150] - crop[100, 50]) * SIDE / 100 / 700 for crop in crops]
    assert 0.59 < min(shares) < 0.65
    assert 0.9 < max(shares) < 1.01
    assert all(crop.min() > -1 and crop.max() < 700 for crop in crops)


def test_the_references_crops_are_the_squashed_image_and_its_mirror_image() -> None:
    reference = TrainingConfig.read(ROOT / "training" / "configs" / "reference.yaml").augmentation
    bare = msgspec.structs.replace(reference, affine=0, blur=0)
    item = blobs(520, 704)
    pixels, coverage, _ = item.squashed(np.s_[:, :], SIDE)
    cells = (coverage >= 0.5).astype(np.float32)
    rng = np.random.default_rng(0)
    taken = [random_crop(item, SIDE, bare, rng) for _ in range(20)]
    expected = {
        (array.tobytes(), mask.tobytes()) for array, mask in ((pixels, cells), _mirrored(pixels, cells))
    }
    assert {(array.tobytes(), mask.tobytes()) for array, mask, _ in taken} == expected


def _mirrored(*arrays: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    return tuple(array[:, ::-1] for array in arrays)


def test_an_unscaled_crop_shows_the_page_s_own_pixels() -> None:
    item = Labelled(
        "noisy", np.random.default_rng(1).random((300, 310), np.float32), np.zeros((300, 310), bool)
    )
    values = set(item.pixels.ravel().tolist())
    for seed in range(5):
        taken = changed(zoom=(0.6, 1.5), affine=1, unscaled=1)
        pixels, *_ = random_crop(item, SIDE, taken, np.random.default_rng(seed))
        assert set(pixels.ravel().tolist()) <= values


def test_a_repaged_crop_is_normalised_as_a_page() -> None:
    pixels, *_ = random_crop(blobs(), SIDE, changed(noise=0.4, repage=1), np.random.default_rng(0))
    assert pixels.mean() == pytest.approx(0, abs=1e-5)
    assert pixels.std() == pytest.approx(1, abs=1e-5)


def test_a_grainy_crop_is_mostly_noise_at_a_page_s_contrast() -> None:
    plain = normalise(blobs().pixels[:SIDE, :SIDE])
    item = Labelled("blobs", plain, blobs().cells[:SIDE, :SIDE])
    for seed in range(5):
        pixels, *_ = random_crop(item, SIDE, changed(grainy=1), np.random.default_rng(seed))
        assert pixels.std() == pytest.approx(1, abs=1e-5)
        kept = np.corrcoef(pixels.ravel(), plain.ravel())[0, 1]
        assert 1 / np.sqrt(1 + GRAINY**2) - 0.05 < kept < 1 / np.sqrt(2) + 0.05


@pytest.mark.parametrize("field", ["blur", "gamma", "noise", "grainy", "contrast", "brightness"])
def test_degradation_leaves_the_mask_alone(field: str) -> None:
    item = Labelled(
        "noisy",
        np.random.default_rng(1).standard_normal((SIDE, SIDE)).astype(np.float32),
        blobs().cells[:SIDE, :SIDE],
    )
    rng = np.random.default_rng(0)
    crops = [random_crop(item, SIDE, changed(**{field: 1}), rng) for _ in range(6)]
    assert all(np.array_equal(cells[0], item.cells) for _, cells, _ in crops)
    assert any(not np.array_equal(pixels[0], item.pixels) for pixels, *_ in crops)


def test_gamma_keeps_mean_and_deviation() -> None:
    item = Labelled(
        "noisy", normalise(np.random.default_rng(1).random((SIDE, SIDE)) ** 2), blobs().cells[:SIDE, :SIDE]
    )
    rng = np.random.default_rng(0)
    crops = [random_crop(item, SIDE, changed(gamma=0.8), rng)[0] for _ in range(10)]
    assert 1 < len({crop.tobytes() for crop in crops}) <= 10
    for crop in crops:
        assert (crop.mean(), crop.std()) == pytest.approx((0, 1), abs=1e-3)


def test_augmentation_leaves_the_image_as_it_was() -> None:
    item, untouched = blobs(), blobs()
    rng = np.random.default_rng(0)
    for _ in range(10):
        random_crop(item, SIDE, Augmentation(affine=1, blur=1, gamma=1), rng)
    assert np.array_equal(item.pixels, untouched.pixels)
    assert np.array_equal(item.cells, untouched.cells)


def test_the_seed_decides_every_crop() -> None:
    mix = [(1.0, [blobs(seed=seed) for seed in range(3)])]
    first, again, other = (
        draw_crop(mix, SIDE, Augmentation(affine=1), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_sources_are_drawn_by_their_weights_and_images_evenly() -> None:
    def uniform(value: int) -> Labelled:
        return Labelled(
            str(value), np.full((SIDE, SIDE), value, np.float32), np.zeros((SIDE, SIDE), np.bool_)
        )

    mix = [(6.0, [uniform(0)]), (2.0, [uniform(1), uniform(2), uniform(3), uniform(4)])]
    rng = np.random.default_rng(0)
    drawn = (
        np.bincount([int(draw_crop(mix, SIDE, PLAIN, rng)[0][0, 0, 0]) for _ in range(500)], minlength=5)
        / 500
    )
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


def test_pixels_beyond_the_page_are_mirrored_but_unknown() -> None:
    item = numbered(100, 90)
    _, _, known = random_crop(item, SIDE, PLAIN, np.random.default_rng(0))
    expected = np.zeros((SIDE, SIDE))
    expected[62:162, 67:157] = 1
    assert np.array_equal(known[0], expected)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_known_pixels_move_with_the_mask(move: Augmentation) -> None:
    blob = blobs()
    item = Labelled("known", blob.pixels, blob.cells, known=blob.cells)
    rng = np.random.default_rng(0)
    for _ in range(8):
        _, cells, known = random_crop(item, SIDE, move, rng)
        assert known.shape == (1, SIDE, SIDE)
        assert set(np.unique(known)) <= {0, 1}
        # Beyond the page nothing is known; elsewhere both are the same shape.
        assert np.mean((known > 0) & (cells == 0)) < 0.01
        assert known.sum() > 0.25 * cells.sum()


def test_marks_and_light_do_not_change_mask_and_known_pixels() -> None:
    item = blobs(SIDE, SIDE)
    rng = np.random.default_rng(0)
    for fields in ({"marks": 1}, {"light": 1}):
        crops = [random_crop(item, SIDE, changed(**fields), rng) for _ in range(12)]
        assert all(np.array_equal(cells[0], item.cells) and known.all() for _, cells, known in crops)
        assert sum(not np.array_equal(pixels[0], item.pixels) for pixels, *_ in crops) >= 10
        assert all(np.isfinite(pixels).all() for pixels, *_ in crops)
