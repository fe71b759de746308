"""Plates in the table: correct counts in any order of pages, and reads without a scan."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from factories import OUTPUT, REGION, TABLE
from functions_on_moto import Sessions, listening
from moto import mock_aws
from moto_stack import make_table

from cytomask.functions.segment.pages import summarise
from cytomask.jobs import Jobs, Lease
from cytomask.plate_places import is_date, pages_of_row, place_of, plain, read_time, time_of
from cytomask.plate_rows import Plates, PlateSummary, StoredMap
from cytomask.platemap import parse_plate_map
from cytomask.records import Flag, PageResult, Result
from cytomask.table import Table

NOW = "2026-11-25T13:20:00.000Z"


@pytest.fixture
def dynamodb(sessions: Sessions) -> Iterator[Any]:
    with mock_aws():
        make_table()
        sessions.wire.mend()
        yield sessions.of_function["api"].client("dynamodb", region_name=REGION)


@pytest.fixture
def plates(dynamodb: Any) -> Plates:
    return Plates(dynamodb, TABLE)


def note(
    plates: Plates, well: str = "A01", time: float | str = 0.0, *, masked: bool = True, cost: float = 0.5
) -> PlateSummary:
    place = f"1#{time_of(time, None, exact=True)}#"
    return plates.note(
        "p", well, places=[place], times=[time_of(time, None)], masked=masked, cost_usd=cost, now=NOW
    )


def add_job(dynamodb: Any, well: str, time: float, site: str = "1", **fields: Any) -> None:
    place = place_of(well, site, time, None)
    item = {
        "job_id": {"S": f"{well}{site}{time}"},
        "record": {"S": "JOB"},
        "status": {"S": "SUCCEEDED"},
        "created_at": {"S": NOW},
        "plate": {"S": "p"},
        "place": {"S": place},
        "well": {"S": well},
        "site": {"S": site},
        "time": {"N": str(time)},
        "confluence": {"N": "0.25"},
        "image": {"S": f"s3://in/{place}"},
    }
    dynamodb.put_item(TableName=TABLE, Item=item | fields)


def test_pages_wells_scans_and_cost_are_counted(plates: Plates) -> None:
    for well in ("A01", "B02"):
        for time in (0.0, 4.0, 8.0):
            summary = note(plates, well, time)
    assert summary == PlateSummary(
        plate="p", wells=2, scans=3, first=0.0, last=8.0, pages=6, failed=0, cost_usd=3.0
    )
    assert list(plates.summaries()) == [summary]


def test_a_repeat_changes_only_the_cost(plates: Plates) -> None:
    once = note(plates)
    again = note(plates)
    assert (once.pages, again.pages) == (1, 1)
    assert again.cost_usd == 1.0


def test_a_page_that_succeeds_on_a_redrive_no_longer_counts_as_failed(plates: Plates) -> None:
    assert note(plates, masked=False).failed == 1
    mended = note(plates, masked=True)
    assert (mended.pages, mended.failed) == (1, 0)
    late = note(plates, masked=False)  # an older notice of the failure
    assert (late.pages, late.failed) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_plate_is_complete_exactly_once_in_any_order_with_any_repeats(dynamodb: Any, seed: int) -> None:
    chance = random.Random(seed)
    pages = [(well, time) for well in ("A01", "A02", "A03") for time in (0.0, 4.0, 8.0)]
    deliveries = pages * 2
    chance.shuffle(deliveries)
    functions = [Plates(dynamodb, TABLE) for _ in range(3)]
    functions[0].expect("p", len(pages), now=NOW)
    claims = 0
    seen = set()
    for page in deliveries:
        own = chance.choice(functions)
        summary = note(own, *page)
        seen.add(page)
        assert summary.complete is (len(seen) == len(pages))
        claims += summary.complete and own.claim_completion("p", now=NOW)
    assert claims == 1


def test_a_completion_that_could_not_be_announced_can_be_claimed_again(plates: Plates) -> None:
    plates.expect("p", 1, now=NOW)
    assert plates.claim_completion("p", now=NOW)
    assert not plates.claim_completion("p", now=NOW)
    plates.give_completion_back("p")
    assert plates.claim_completion("p", now=NOW)


def test_the_larger_of_two_counts_that_overtake_each_other_stays(plates: Plates, dynamodb: Any) -> None:
    note(plates, time=0.0)
    note(plates, time=4.0)
    # A function that counted one page and was delayed before it wrote the plate's row.
    late = plates._update(
        "PLATES",
        "p",
        expression="SET ended.#well = :one",
        names={"#well": "A01"},
        values={":one": {"N": "1"}},
        condition="attribute_not_exists(ended.#well) OR ended.#well <= :one",
    )
    assert late is None
    summary = plates.summary("p")
    assert summary is not None
    assert summary.pages == 2


def test_dates_count_by_the_hour_as_scans(plates: Plates) -> None:
    note(plates, "A01", "2026-11-25T13:20:11")
    summary = note(plates, "A02", "2026-11-25T13:24:50")
    assert (summary.scans, summary.first) == (1, "2026-11-25T13")


def test_a_plate_that_is_not_there_has_no_summary(plates: Plates) -> None:
    assert plates.summary("none") is None
    assert list(plates.summaries()) == []


@pytest.mark.parametrize("name", ["a#b", "ä ü", "x" * 128, "PLATES", "=1+1"])
def test_a_plate_is_found_under_any_name(plates: Plates, name: str) -> None:
    plates.expect(name, 3, now=NOW)
    summary = plates.summary(name)
    assert summary is not None
    assert (summary.plate, summary.expected_pages, summary.complete) == (name, 3, False)


def test_pages_are_read_by_well_and_time(plates: Plates, dynamodb: Any) -> None:
    for well, time in (("B02", 4.0), ("A01", 100.0), ("A01", 20.0), ("A01", 3.0)):
        add_job(dynamodb, well, time)
    found = [(page.well, page.time) for page in plates.pages("p")]
    assert found == [("A01", 3.0), ("A01", 20.0), ("A01", 100.0), ("B02", 4.0)]
    assert [page.well for page in plates.pages("p", "B02")] == ["B02"]
    assert list(plates.pages("q")) == []


def test_pages_of_a_plate_are_read_without_a_scan(plates: Plates, dynamodb: Any) -> None:
    add_job(dynamodb, "A01", 0.0)
    asked: list[str] = []

    def note_call(model: Any, **_: Any) -> None:
        asked.append(model.name)

    with listening(dynamodb, "before-call.dynamodb", note_call):
        list(plates.pages("p"))
        plates.some_pages("p", well=None, start=None, count=5)
        list(plates.summaries())
    assert asked == ["Query", "Query", "Query"]


def test_some_pages_at_a_time_are_all_pages_in_the_end(plates: Plates, dynamodb: Any) -> None:
    for time in range(7):
        add_job(dynamodb, "A01", float(time))
    start, found = None, []
    while True:
        pages, start = plates.some_pages("p", well=None, start=start, count=3)
        found += [page.time for page in pages]
        if start is None:
            break
    assert found == [float(time) for time in range(7)]


def test_an_answer_ends_after_a_stack_of_many_pages(plates: Plates, dynamodb: Any) -> None:
    for time in range(4):
        stack = [{"M": {"page": {"N": str(page)}}} for page in range(2000)]
        add_job(dynamodb, "A01", float(time), series={"L": stack})
    start, counts, found = None, [], set()
    while True:
        pages, start = plates.some_pages("p", well=None, start=start, count=500)
        counts.append(len(pages))
        found |= {(page.image, page.page) for page in pages}
        if start is None:
            break
    assert (counts, len(found)) == ([4000, 4000], 8000)


def test_a_map_is_kept_and_read(plates: Plates) -> None:
    stored = StoredMap(uri="s3://in/p.csv", plate_map=parse_plate_map(b"well,condition\nA1,x\n", "p.csv"))
    assert plates.map_of("p") is None
    plates.put_map("p", stored, now=NOW)
    assert plates.map_of("p") == stored


def test_the_pages_of_a_stack_share_its_well_its_pixels_and_its_cost() -> None:
    row = {
        **{"job_id": "j", "plate": "p", "well": "A01", "status": "SUCCEEDED"},
        **{"estimated_cost_usd": 0.4, "image": "i", "pixels": 200.0},
        "series": [
            {"page": 0.0, "time": 0.0, "confluence": 0.1, "mask": "m0"},
            {"page": 1.0, "time": 4.0, "confluence": 0.2, "mask": "m1", "quality": ["blurred"]},
        ],
    }
    first, second = pages_of_row(row)
    assert (first.time, first.confluence, first.cost_usd, first.page) == (0.0, 0.1, 0.2, 0)
    assert (second.time, second.mask, second.quality, second.image) == (4.0, "m1", ("blurred",), "i")
    assert (first.pixels, second.pixels) == (100, 100)  # a site with a stack weighs as much as one without


def test_a_stack_of_as_many_pages_as_a_job_takes_fits_into_its_row(dynamodb: Any, plates: Plates) -> None:
    """moto refuses rows of more than 400 KB, as DynamoDB does."""
    prefix = f"s3://{OUTPUT}/an experiment with a long name/2026-11-25/VID1523_B2_1.tif"
    pages = [
        PageResult(
            page=number,
            height=16,
            width=16,
            dtype="uint16",
            tiles=None,
            time=f"2026-11-25T{number // 60 % 24:02d}:{number % 60:02d}:00",
            confluence=1 / 3,
            confluence_low=1 / 7,
            confluence_high=2 / 3,
            cell_area_mm2=0.123456789,
            quality=[Flag("UNCERTAIN", 0.123)],
            mask=f"{prefix}.p{number:04d}.mask.png",
        )
        for number in range(2100)
    ]
    result = Result(status="SUCCEEDED", job_id="j", plate="p", well="B02", pages=pages, mask=pages[0].mask)
    summarise(result, pages)
    jobs = Jobs(Table(dynamodb, TABLE))
    lease = jobs.take("j", image="s3://in/a.tif", group="", owner="me", now=1.0, seconds=60, queued=True)
    assert isinstance(lease, Lease)
    assert jobs.finish(lease, result, now=2.0)
    found = sorted(plates.pages("p"), key=lambda page: page.page or 0)
    assert [page.mask for page in found] == [page.mask for page in pages]


def test_a_row_of_before_this_release_is_read() -> None:
    row = {"job_id": "j", "plate": "p", "well": "A01", "status": "SUCCEEDED"}
    row |= {"created_at": NOW, "model_sha256": "ab"}
    (page,) = pages_of_row(row)
    assert (page.site, page.time, page.model, page.uploaded_at) == ("", None, "ab", NOW)


def test_typed_attributes_become_plain_values() -> None:
    typed = {
        "s": {"S": "x"},
        "n": {"N": "1.5"},
        "l": {"L": [{"N": "2"}]},
        "m": {"M": {"a": {"S": "b"}}},
        "b": {"BOOL": True},
        "none": {"NULL": True},
        "ss": {"SS": ["a"]},
    }
    assert plain(typed) == {
        **{"s": "x", "n": 1.5, "l": [2.0], "m": {"a": "b"}, "b": True, "none": None, "ss": ["a"]}
    }


def test_places_sort_by_well_then_time() -> None:
    places = [
        place_of("A01", "2", 4.0, None),
        place_of("A01", "1", 20.0, None),
        place_of("A02", "1", 0.0, None),
    ]
    assert sorted(places) == places
    assert time_of("2026-11-25T13:20:11", None, exact=True) == "2026-11-25T13:20:11"
    assert time_of(None, 7) == "n00000007"


@pytest.mark.parametrize(
    ("text", "read", "dated"),
    [
        (time_of(36.5, None), 36.5, False),
        (time_of("2026-11-25T13:20:11", None), "2026-11-25T13", True),
        (time_of(None, 7), "n00000007", False),
    ],
)
def test_hours_dates_and_numbers_of_scans_are_told_apart(text: str, read: float | str, dated: bool) -> None:
    assert read_time(text) == read
    assert (is_date(text), is_date(read)) == (dated, dated)
