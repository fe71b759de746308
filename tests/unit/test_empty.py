"""Generated pages without a cell."""

import numpy as np
import pytest

from cytomask.samples.empty import KINDS, empty_page, empty_page_kind


@pytest.mark.parametrize("seed", range(2 * len(KINDS)))
def test_a_page_of_every_kind_has_its_size_and_varies(seed: int) -> None:
    page = empty_page(seed, 120, 160)
    assert page.kind == empty_page_kind(seed) == list(KINDS)[seed % len(KINDS)]
    assert page.pixels.shape == (120, 160)
    assert page.pixels.dtype in (np.uint8, np.uint16)
    assert len(np.unique(page.pixels)) > 8


def test_the_seed_decides_the_page() -> None:
    first, again, other = (empty_page(seed, 90, 80).pixels for seed in (4, 4, 4 + len(KINDS)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_generated_pages_have_8_to_16_bits() -> None:
    brightest = [int(empty_page(seed, 64, 64).pixels.max()) for seed in range(60)]
    assert min(brightest) < 256
    assert max(brightest) > 2**14
