"""The gallery's list: doubt, spending, and the jobs that are read again."""

from typing import Any

import pytest

from cytomask.web.catalogue import Entry, Standing, doubt_of, entry_of, spending, standing_of


def entry(**fields: Any) -> Entry:
    return Entry("0" * 32, fields.pop("status", "SUCCEEDED"), "2026-11-25T00:00:00Z", "", **fields)


@pytest.mark.parametrize(
    ("fields", "doubt"),
    [
        ({}, 0.0),
        ({"status": "FAILED"}, 1.0),
        ({"status": "REJECTED", "iou": 1.0}, 1.0),
        ({"iou": 0.9}, 0.1),
        ({"low": 0.3, "high": 0.6}, 0.3),
        ({"quality": ["EMPTY"]}, 0.5),
        ({"quality": ["EMPTY", "UNCERTAIN"], "iou": 0.2}, 0.8),
        ({"quality": ["A", "B", "C", "D", "E", "F", "G"]}, 1.0),
    ],
)
def test_an_entrys_doubt_is_its_largest_reason(fields: dict[str, Any], doubt: float) -> None:
    assert doubt_of(entry(**fields)) == pytest.approx(doubt)


def test_a_row_without_an_image_is_an_entry() -> None:
    row = {"job_id": "a" * 32, "status": "REJECTED", "created_at": "2026", "updated_at": "2026"}
    found = entry_of(row)
    assert (found.key, found.has_mask, found.confluence) == ("", False, None)


def test_flags_are_read_as_names_and_as_structs() -> None:
    row = {"job_id": "a" * 32, "status": "SUCCEEDED", "created_at": "", "updated_at": ""}
    flags = ["EMPTY", {"name": "UNCERTAIN", "value": 0.4}]
    assert entry_of(row | {"quality": flags}).quality == ["EMPTY", "UNCERTAIN"]


def test_the_newest_ground_truth_that_was_scored_counts() -> None:
    rows: list[dict[str, Any]] = [
        {"evaluation_status": "SCORED", "created_at": "1", "iou": 0.5},
        {"evaluation_status": "SCORED", "created_at": "2", "iou": 0.7},
        {"evaluation_status": "QUEUED", "created_at": "3"},
    ]
    assert standing_of(rows) == Standing(0.7)
    assert standing_of(rows[2:]) == Standing()


def test_a_newer_ground_truth_that_was_refused_is_told_beside_the_score() -> None:
    rows: list[dict[str, Any]] = [
        {"evaluation_status": "REJECTED", "created_at": "2", "error_code": "A", "error": "too small"},
        {"evaluation_status": "SCORED", "created_at": "1", "iou": 0.5},
    ]
    assert standing_of(rows) == Standing(0.5, "REJECTED", "A", "too small")
    assert standing_of([*rows, {"evaluation_status": "SCORED", "created_at": "3", "iou": 0.6}]) == Standing(
        0.6
    )


def test_spending_lists_days_newest_first_and_groups_by_name() -> None:
    jobs = [entry(group=group, cost=1.0, megapixels=0.5) for group in ("b", "a", "b")]
    jobs[0].created = "2026-11-26T00:00:00Z"
    days = spending(jobs)
    assert [(day["day"], day["group"], day["jobs"], day["cost"]) for day in days] == [
        ("2026-11-26", "b", 1, 1.0),
        ("2026-11-25", "a", 1, 1.0),
        ("2026-11-25", "b", 1, 1.0),
    ]
