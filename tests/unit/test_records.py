"""Results and rows: their schemas are current, they round-trip, and long texts are cut."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.jobs import outcome_of
from cytomask.records import (
    LONGEST_ERROR,
    EvaluationRow,
    Fault,
    Flag,
    JobRow,
    PageResult,
    Result,
    Tiling,
    cut,
    schemas,
)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", schemas())
def test_the_schema_in_docs_is_current(name: str) -> None:
    written = json.loads((DOCS / name).read_text())
    assert written == json.loads(msgspec.json.encode(schemas()[name])), (
        "run `python -m cytomask.records docs`"
    )


@pytest.mark.parametrize("name", schemas())
def test_every_schema_describes_every_field(name: str) -> None:
    text = (DOCS / name).read_text()
    kinds = (Result, PageResult) if name.startswith("result") else (JobRow, EvaluationRow)
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            assert f'"{field.encode_name}"' in text


def a_page(**changes: object) -> PageResult:
    fields = {"page": 0, "height": 2, "width": 3, "dtype": "uint8", "confluence": 0.5, "tiles": None}
    return msgspec.convert(fields | changes, PageResult)


@given(st.builds(Flag, st.text(max_size=20), st.floats(0, 1)), st.floats(0, 1), st.booleans())
def test_a_result_is_read_back_as_it_was_written(flag: Flag, confluence: float, tiled: bool) -> None:
    tiles = Tiling(4, 224, 56) if tiled else None
    page = msgspec.structs.replace(a_page(), quality=[flag], tiles=tiles, mask="s3://out/a.mask.png")
    result = Result(status="SUCCEEDED", job_id="j", confluence=confluence, pages=[page], plate="P 1")
    assert msgspec.json.decode(msgspec.json.encode(result.shown()), type=Result) == result


def test_a_result_of_version_0_1_is_read() -> None:
    page = {"page": 0, "height": 2, "width": 3, "dtype": "uint8", "confluence": 0.5, "tiles": None}
    old = {"job_id": "j", "status": "SUCCEEDED", "confluence": 0.5, "mask": None, "pages": [page]}
    result = msgspec.json.decode(json.dumps(old), type=Result)
    assert (result.pages[0].orientation, result.quality, result.mask) == (None, [], None)


def test_a_result_always_has_mask_and_pages() -> None:
    assert Result(status="SUCCEEDED", pages=[a_page()]).shown()["mask"] is None
    assert Result(status="SUCCEEDED", job_id="j").shown() == {"status": "SUCCEEDED", "job_id": "j"}


def test_the_row_keeps_the_names_of_the_flags_and_all_that_places_an_image() -> None:
    result = Result(
        status="SUCCEEDED",
        quality=[Flag("blurred", 0.1), Flag("empty", 2.0)],
        plate="P",
        well="B02",
        site="1",
        time=4.5,
        cell_line="A172",
        confluence_low=0.25,
        confluence_high=0.75,
        timings_ms={"total": 12.5},
        pages=[a_page(), a_page(page=1)],
    )
    kept = outcome_of(result)
    row = msgspec.convert(
        {name: value for name, value in kept.items() if value is not None}
        | {"job_id": "j", "status": "SUCCEEDED"},
        JobRow,
    )
    assert (row.quality, row.plate, row.well, row.site, row.time) == (
        ["blurred", "empty"],
        "P",
        "B02",
        "1",
        4.5,
    )
    assert (row.cell_line, row.confluence_low, row.confluence_high) == ("A172", 0.25, 0.75)
    assert (row.milliseconds, row.pages) == (12.5, 2)


def test_pixels_are_those_of_all_pages() -> None:
    assert Result(status="SUCCEEDED", pages=[a_page(), a_page(width=4)]).pixels == 14


@given(st.text())
def test_a_short_error_is_kept_whole(text: str) -> None:
    assert cut(text) == text


def test_a_long_error_is_cut_to_what_a_row_has_room_for() -> None:
    assert len(cut("x" * 300_000)) == LONGEST_ERROR
    result = Result(status="REJECTED", error=Fault("CODE", "x" * 300_000))
    assert len(outcome_of(result)["error"]) == LONGEST_ERROR
