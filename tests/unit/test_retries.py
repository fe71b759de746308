"""How long a message waits that failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.retries import LONGEST_DELAY_SECONDS, retry_delay


def test_each_try_waits_four_times_as_long_as_the_one_before() -> None:
    assert [retry_delay(30, failed, 6) for failed in range(1, 6)] == [30, 120, 480, 1920, 3600]


def test_what_was_tried_for_the_last_time_goes_to_the_dead_letters_at_once() -> None:
    assert [retry_delay(30, failed, 3) for failed in range(1, 4)] == [30, 120, 0]


@pytest.mark.parametrize("failed", [1, 2, 1000])
def test_no_delay_stays_none(failed: int) -> None:
    assert retry_delay(0, failed, 5) == 0


@given(first=st.integers(0, 3600), failed=st.integers(1, 1000))
def test_a_delay_never_shrinks_and_is_one_that_sqs_takes(first: int, failed: int) -> None:
    delays = [retry_delay(first, each, failed + 2) for each in (failed, failed + 1)]
    assert first <= delays[0] <= delays[1] <= LONGEST_DELAY_SECONDS
