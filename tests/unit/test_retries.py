"""How long a message waits that failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.retries import LONGEST_DELAY_SECONDS, retry_delay


def test_each_try_waits_four_times_as_long_as_the_one_before() -> None:
    assert [retry_delay(30, failed) for failed in range(1, 6)] == [30, 120, 480, 1920, 3600]


@pytest.mark.parametrize("failed", [1, 2, 1000])
def test_no_delay_stays_none(failed: int) -> None:
    assert retry_delay(0, failed) == 0


@given(first=st.integers(0, 3600), failed=st.integers(1, 1000))
def test_a_delay_never_shrinks_and_is_one_that_sqs_takes(first: int, failed: int) -> None:
    assert first <= retry_delay(first, failed) <= retry_delay(first, failed + 1) <= LONGEST_DELAY_SECONDS
