"""Plates over HTTP: lists, growth, pages as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import numpy as np
import pytest
from factories import TABLE

from cytomask.acquisition import Acquisition
from cytomask.plate_places import columns_of, places_of, time_of
from cytomask.plate_rows import Plates, StoredMap
from cytomask.platemap import parse_plate_map
from cytomask.samples.plates import Well

if TYPE_CHECKING:
    from functions_on_moto import HttpDoor

NOW = "2026-11-25T13:20:00.000Z"
HOURS = tuple(float(hour) for hour in range(0, 88, 4))


def add_pages(well: str, pages: Mapping[float | str, float], plate: str = "P 7") -> None:
    """Write the pages of a well, by time, like the segment function: their rows, and the plate's counts.

    Only the counts come all at once, because a test would spend most of its time on them.
    """
    dynamodb = boto3.client("dynamodb")
    places: list[str] = []
    requests: list[Any] = []
    for time, confluence in pages.items():
        placed = columns_of(Acquisition(plate=plate, well=well, site="1", time=time))
        assert placed is not None
        places += places_of(placed, [0])
        name = f"{well}_{time}"
        row = {
            **{"job_id": f"{plate}{well}{time}", "record": "JOB", "status": "SUCCEEDED", "created_at": NOW},
            **{"image": f"s3://in/{name}.tif", "mask": f"s3://out/{name}.png", "model": "m"},
            **placed,
        }
        item: dict[str, Any] = {
            field: {"N": str(value)} if isinstance(value, float) else {"S": value}
            for field, value in row.items()
        }
        requests.append({"PutRequest": {"Item": item | {"confluence": {"N": f"{confluence:.6f}"}}}})
    dynamodb.batch_write_item(RequestItems={TABLE: requests})
    Plates(dynamodb, TABLE).note(
        plate,
        well,
        places=places,
        times=[time_of(time, None) for time in pages],
        masked=True,
        cost_usd=0.001 * len(pages),
        now=NOW,
    )


@pytest.fixture
def plate(http: HttpDoor) -> HttpDoor:
    for well, doubling in (("A01", 18.0), ("B02", 30.0)):
        shares = Well("logistic", doubling).confluence(np.array(HOURS))
        add_pages(well, dict(zip(HOURS, shares.tolist(), strict=True)))
    return http


def test_plates_are_listed_with_what_is_counted_of_them(plate: HttpDoor) -> None:
    answer = plate.get("/plates")
    assert answer.status == 200
    (summary,) = answer.json["plates"]
    assert {name: summary[name] for name in ("plate", "wells", "scans", "pages", "failed", "complete")} == {
        **{"plate": "P 7", "wells": 2, "scans": 22, "pages": 44, "failed": 0, "complete": None}
    }
    assert (summary["first"], summary["last"]) == (0.0, 84.0)


def test_no_plate_is_an_empty_list(http: HttpDoor) -> None:
    assert http.get("/plates").json == {"plates": []}


@pytest.mark.parametrize("path", ["/plates/P 7", "/plates/P%207"])
def test_a_plate_shows_its_wells_with_their_growth(plate: HttpDoor, path: str) -> None:
    shown = plate.get(path).json
    growth = {well["well"]: well["growth"]["doubling_time_h"] for well in shown["wells"]}
    assert growth == {"A01": pytest.approx(18, rel=0.02), "B02": pytest.approx(30, rel=0.03)}
    assert shown["wells"][0]["hours"] == list(HOURS)
    assert len(shown["wells"][0]["confluence"]) == 22
    assert (shown["size"], shown["pages_used"], shown["left_out"]) == (6, 44, [])


def test_an_uploaded_map_gives_conditions(plate: HttpDoor) -> None:
    content = b"# control: DMSO\nwell,condition\nA1,DMSO\nB2,drug\nB3,drug\n"
    add_pages("B03", {0.0: 0.1}, plate="P 7")  # too few scans for a rate
    stored = StoredMap(uri="s3://in/m.csv", plate_map=parse_plate_map(content, "m.csv"))
    Plates(boto3.client("dynamodb"), TABLE).put_map("P 7", stored, now=NOW)
    conditions = {each["condition"]: each for each in plate.get("/plates/P 7").json["conditions"]}
    assert conditions["drug"]["relative_rate"] == pytest.approx(18 / 30, rel=0.04)
    assert conditions["DMSO"]["relative_rate"] == 1
    assert (conditions["drug"]["wells"], conditions["drug"]["measured"]) == (["B02", "B03"], 1)


@pytest.mark.parametrize("path", ["/plates/none", "/plates/none/pages", "/plates/a%23b"])
def test_a_plate_that_is_not_there_is_answered_404(http: HttpDoor, path: str) -> None:
    answer = http.get(path)
    assert answer.status == 404
    assert answer.json["code"] == "NO_SUCH_PLATE"


@pytest.mark.parametrize("name", ["a#b", "ü", "50%", "a+b", "(1)"])
def test_any_name_can_be_asked_for(http: HttpDoor, name: str) -> None:
    add_pages("A01", {0.0: 0.1}, plate=name)
    assert http.get(f"/plates/{quote(name)}").json["plate"] == name
    assert len(http.get(f"/plates/{quote(name)}/pages").json["pages"]) == 1


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("interval=0", "hours between two scans"),
        ("interval=x", "hours between two scans"),
        ("leave_out=blurred", "unknown quality flag BLURRED to leave out; use EMPTY"),
        ("wells=A1", "unknown field wells in the query; it takes channel, control, interval, leave_out"),
    ],
)
def test_a_wrong_query_is_refused(plate: HttpDoor, query: str, sentence: str) -> None:
    answer = plate.get(f"/plates/P 7?{query}")
    assert answer.status == 400
    assert sentence in answer.json["detail"]


def test_pages_come_by_well_and_time(plate: HttpDoor) -> None:
    answer = plate.get("/plates/P 7/pages").json
    assert [(page["well"], page["time"]) for page in answer["pages"]] == [
        (well, hour) for well in ("A01", "B02") for hour in HOURS
    ]
    assert answer["cursor"] is None
    (only,) = {page["well"] for page in plate.get("/plates/P 7/pages?well=b2").json["pages"]}
    assert only == "B02"


def test_pages_continue_where_the_previous_answer_ended(
    plate: HttpDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytomask.functions.api.plates.JOBS_AT_ONCE", 20)
    found, query = [], ""
    while True:
        answer = plate.get(f"/plates/P 7/pages?{query}").json
        found += answer["pages"]
        if answer["cursor"] is None:
            break
        query = f"cursor={answer['cursor']}"
    assert len(found) == 44
    wrong = plate.get(f"/plates/P 7/pages?{query}&well=A1")
    assert (wrong.status, wrong.json["code"]) == (400, "INVALID_REQUEST")


def test_pages_come_as_a_csv_where_the_caller_wants_one(
    plate: HttpDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytomask.functions.api.plates.JOBS_AT_ONCE", 20)
    answer = plate.call("GET", "/plates/P 7/pages", accept="text/csv")
    assert answer.kind.startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert len(rows) == 20
    assert (rows[1]["well"], rows[1]["hours"], rows[1]["image"]) == ("A01", "4", "s3://in/A01_4.0.tif")
    assert answer.headers["Link"].endswith('>; rel="next"')


def test_the_link_of_a_csv_leads_through_all_pages_of_the_well(
    plate: HttpDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytomask.functions.api.plates.JOBS_AT_ONCE", 10)
    query, hours = "?well=b2", []
    while query:
        answer = plate.call("GET", f"/plates/P 7/pages{query}", accept="text/csv")
        assert answer.status == 200
        hours += [float(row["hours"]) for row in csv.DictReader(io.StringIO(answer.body.decode()))]
        query = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert hours == list(HOURS)


def test_the_hours_of_a_csv_count_from_the_first_scans_hour_if_times_are_dates(http: HttpDoor) -> None:
    for well, time in (("A01", "2026-11-25T13:20:00"), ("B02", "2026-11-26T01:50:00")):
        add_pages(well, {time: 0.1})
    answer = http.call("GET", "/plates/P 7/pages?well=B2", accept="text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.body.decode()))
    assert (row["time"], row["hours"]) == ("2026-11-26T01:50:00", "12.8333")


def test_a_wrong_well_is_refused(plate: HttpDoor) -> None:
    assert plate.get("/plates/P 7/pages?well=Z99").status == 400
