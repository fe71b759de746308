"""Times by stage, and what they cost."""

import time

import pytest

from cytomask.telemetry import Stopwatch, estimated_cost_usd


def test_a_stage_that_comes_twice_is_added_up() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.stage("infer"):
            time.sleep(0.01)
    times = watch.milliseconds()
    assert times["infer"] >= 20
    assert times["total"] >= times["infer"]


def test_a_stage_that_fails_counts_too() -> None:
    watch = Stopwatch()
    with pytest.raises(OSError, match="broken"), watch.stage("read"):
        raise OSError("broken")
    assert "read" in watch.milliseconds()


def test_a_gigabyte_for_a_second_costs_what_lambda_asks() -> None:
    assert estimated_cost_usd(1000, 1024) == pytest.approx(0.0000166667 + 0.0000002, abs=1e-9)
