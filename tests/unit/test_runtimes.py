"""Times at Lambda's memory sizes follow from those of one thread and of two."""

import pytest

from benchmarks.runtimes import GPU_ENDPOINT_USD_PER_HOUR, MB_PER_VCPU, lambda_sizes

ROWS = {row["memory_mb"]: row for row in lambda_sizes(one_ms=260, two_ms=190)}


@pytest.mark.parametrize(("memory_mb", "milliseconds"), [(MB_PER_VCPU, 260), (2 * MB_PER_VCPU, 190)])
def test_whole_vcpus_take_what_was_measured(memory_mb: int, milliseconds: float) -> None:
    assert ROWS[memory_mb]["ms"] == pytest.approx(milliseconds)


def test_less_than_a_vcpu_gets_its_share_of_the_time() -> None:
    assert ROWS[1024]["ms"] == pytest.approx(260 * MB_PER_VCPU / 1024)


def test_between_one_and_two_the_rate_grows_evenly() -> None:
    share = 3008 / MB_PER_VCPU - 1
    assert 1 / ROWS[3008]["ms"] == pytest.approx((1 - share) / 260 + share / 190)


def test_the_break_even_is_where_the_images_of_an_hour_cost_what_the_endpoint_does() -> None:
    for row in ROWS.values():
        hour = row["usd_per_1000"] / 1000 * row["break_even_per_hour"]
        assert hour == pytest.approx(GPU_ENDPOINT_USD_PER_HOUR)
