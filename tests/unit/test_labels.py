"""Truths of three values: the pixels that each rule leaves unknown."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cytomask.model.preprocess import Pixels
from cytomask.training.labels import colonies, somata, texture

Disc = tuple[int, int, int]  # row, column, radius


def discs(*places: Disc) -> NDArray[np.bool_]:
    drawn = np.zeros((300, 300), np.uint8)
    for row, column, radius in places:
        cv2.circle(drawn, (column, row), radius, 1, -1)
    return drawn > 0


def page(textured: NDArray[np.bool_], seed: int = 0) -> Pixels:
    """Make smooth background with strong texture in the given places."""
    noise = np.random.default_rng(seed).standard_normal(textured.shape).astype(np.float32)
    return np.where(textured, 2 * noise, 0.1 * noise)


def test_texture_is_the_local_deviation() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (200, 200)).astype(np.float32)
    assert abs(float(texture(noise).mean()) - 3) < 0.1
    assert np.all(texture(np.full((50, 50), 1.5, np.float32)) < 1e-3)


def test_somata_are_known_and_smooth_ground_is_and_a_neurite_is_not() -> None:
    soma, neurite = discs((60, 60, 12)), np.zeros((300, 300), np.bool_)
    neurite[200:204, 20:280] = True
    known = somata(page(soma | neurite), soma)
    assert known[soma].all()
    assert known[120:180, 120:280].all()
    assert known[neurite].mean() < 0.05
    assert not known[60, 60 + 14 : 60 + 17].any()  # the margin around a soma


def test_a_small_spot_away_from_somata_is_ground() -> None:
    debris = discs((220, 220, 3))
    known = somata(page(debris), discs((60, 60, 12)))
    assert known[debris].all()


def test_an_unmarked_cell_within_a_colony_is_unknown_and_one_alone_is_known() -> None:
    marked = discs((100, 80, 18), (100, 140, 18), (60, 110, 18), (140, 110, 18))
    within, alone = discs((100, 110, 10)), discs((250, 250, 10))
    known = colonies(page(marked | within | alone), marked)
    assert known[marked].all()
    assert known[within].mean() < 0.2
    assert known[alone].all()


def test_a_smooth_or_narrow_gap_within_a_colony_is_ground() -> None:
    marked = discs((100, 80, 30), (100, 146, 30))
    assert colonies(page(marked), marked).all()
