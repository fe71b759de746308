"""The simulation of a second of heavy load, at a tenth of that load."""

from benchmarks.partitions import LIMIT, Meter, segment

IMAGES = 1000


def test_no_partition_takes_more_than_its_limit_at_ten_thousand_images_a_second() -> None:
    meter = Meter()
    segment(meter, range(IMAGES), group="HeLa")
    [((where, busiest), units)] = meter.units.most_common(1)
    assert where == "table" and busiest.startswith("DAY#")
    assert units * 10_000 / IMAGES <= LIMIT
    assert sum(meter.units.values()) <= 4 * IMAGES + 2  # and the day is noted once


def test_no_index_lists_finished_jobs() -> None:
    meter = Meter()
    segment(meter, range(10), group="HeLa")
    assert {where for where, _ in meter.units} == {"table"}


def test_the_meter_counts_an_entry_that_moves_twice() -> None:
    meter = Meter()
    row = {"job_id": {"S": "j"}, "record": {"S": "JOB"}, "created_at": {"S": "2026"}}
    for status in ("QUEUED", "FAILED"):
        meter.put_item(Item=row | {"status": {"S": status}})
    assert meter.units == {("table", "j"): 2, ("by_status", "QUEUED"): 2, ("by_status", "FAILED"): 1}
