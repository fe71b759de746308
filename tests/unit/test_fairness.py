"""The simulation of fair queues, in cases that arithmetic can answer."""

import numpy as np
import pytest

from benchmarks.fairness import Load, is_noisy, waiting_times

SMALL = Load(backlog=400, uploads=20, interval=1.0, consumers=4, seconds=0.5)


def test_without_a_group_uploads_wait_for_the_whole_backlog() -> None:
    waits = waiting_times(SMALL, grouped=False)
    assert waits[0] == pytest.approx(400 * 0.5 / 4, abs=SMALL.interval)
    assert waits.min() > 400 * 0.5 / 4 - SMALL.uploads * SMALL.interval


def test_with_a_group_uploads_wait_for_the_next_free_consumer() -> None:
    assert waiting_times(SMALL, grouped=True)[1:].max() <= SMALL.seconds


def test_uploads_wait_as_long_on_average_whether_or_not_a_second_is_a_multiple_of_an_images_time() -> None:
    for seconds in (0.25, 0.26):
        waits = waiting_times(Load(20_000, 500, 1.0, 6, seconds), grouped=True)[1:]
        assert np.median(waits) == pytest.approx(seconds / 2, rel=0.15)
        assert waits.max() == pytest.approx(seconds, rel=0.05)


def test_uploads_do_not_wait_in_an_empty_queue() -> None:
    empty = Load(backlog=0, uploads=5, interval=1.0, consumers=2, seconds=0.5)
    assert waiting_times(empty, grouped=True).max() == 0


@pytest.mark.parametrize(
    ("shares", "noisy"),
    [((11, 100, 0, 6), True), ((10, 100, 6, 6), False), ((0, 0, 29, 60), False), ((0, 0, 30, 60), True)],
)
def test_the_documented_thresholds_make_a_tenant_noisy(
    shares: tuple[int, int, int, int], noisy: bool
) -> None:
    assert is_noisy(*shares) == noisy
