"""The backlog benchmark summarises the function's invocations."""

from typing import Any

import pytest

from benchmarks.queue import growth, summarise


def invocations(milliseconds: list[float], megabytes: list[float]) -> list[dict[str, Any]]:
    """Deliver batches of four images, one after the other."""
    ended, made = 0.0, []
    for spent, resident in zip(milliseconds, megabytes, strict=True):
        started, ended = ended, ended + 4 * spent / 1000
        made.append({"images": 4, "started": started, "ended": ended, "resident_mb": resident})
    return made


def test_a_backlog_is_summed_up_by_its_tenths() -> None:
    run = summarise(1, 80, invocations([100.0] * 10 + [200.0] * 10, [150.0] * 10 + [160.0] * 10))
    assert run["seconds"] == pytest.approx(12)
    assert run["images_per_second"] == pytest.approx(80 / 12, abs=0.01)
    assert run["ms_per_image"] == pytest.approx([100] * 5 + [200] * 5)
    assert run["resident_mb"] == [150] * 5 + [160] * 5


@pytest.mark.parametrize(
    ("last_ms", "last_mb", "named"),
    [(140, 170, []), (160, 170, ["ms_per_image"]), (140, 190, ["resident_mb"])],
)
def test_growth_over_the_backlog_is_named(last_ms: float, last_mb: float, named: list[str]) -> None:
    run = summarise(1, 80, invocations([100.0] * 18 + [last_ms] * 2, [150.0] * 18 + [last_mb] * 2))
    assert [sentence.split(": ")[1].split()[0] for sentence in growth(run)] == named
