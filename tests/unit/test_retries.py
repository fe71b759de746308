"""How long a failed message waits."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError
from hypothesis import given
from hypothesis import strategies as st

from cytomask.clients import CLIENTS
from cytomask.infra.template import load_template
from cytomask.retries import LONGEST_DELAY_SECONDS, is_final, retry_delay


def test_each_retry_waits_four_times_as_long() -> None:
    assert [retry_delay(30, failed, 6) for failed in range(1, 6)] == [30, 120, 480, 1920, 3600]


def test_a_message_after_its_last_attempt_becomes_a_dead_letter_at_once() -> None:
    assert [retry_delay(30, failed, 3) for failed in range(1, 4)] == [30, 120, 0]


@pytest.mark.parametrize("failed", [1, 2, 1000])
def test_a_delay_of_0_stays_0(failed: int) -> None:
    assert retry_delay(0, failed, 5) == 0


@given(first=st.integers(0, 3600), failed=st.integers(1, 1000))
def test_delays_never_shrink_and_stay_within_sqs_limits(first: int, failed: int) -> None:
    delays = [retry_delay(first, each, failed + 2) for each in (failed, failed + 1)]
    assert first <= delays[0] <= delays[1] <= LONGEST_DELAY_SECONDS


def test_a_service_that_does_not_answer_is_given_up_within_half_of_an_invocation() -> None:
    """Otherwise Lambda kills the invocation, and no line says what was waited for."""
    options: Any = CLIENTS
    seconds = (options.connect_timeout + options.read_timeout) * options.retries["total_max_attempts"]
    assert seconds < load_template()["Parameters"]["SegmentTimeout"]["Default"] / 2


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (ParamValidationError(report="Invalid bucket name"), True),
        (ClientError({"Error": {"Code": "ValidationException"}}, "PutItem"), True),
        (ClientError({"Error": {"Code": "ThrottlingException"}}, "PutItem"), False),
        (ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject"), False),
        (ValueError("no call"), False),
    ],
)
def test_only_calls_that_aws_always_refuses_are_final(error: Exception, final: bool) -> None:
    assert is_final(error) is final
