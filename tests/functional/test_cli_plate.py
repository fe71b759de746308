"""`cytomask plates`, `plate` and `reindex` against a table of rows, without any function."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import GROUND_TRUTH, INPUT, OUTPUT, QUEUE_URL, REGION, SEGMENT_QUEUE_URL, TABLE
from functions_on_moto import Sessions
from moto import mock_aws
from moto_stack import make_buckets, make_table

from cytomask.cli.main import main
from cytomask.cli.plates import shown_time
from cytomask.cli.rows import Search
from cytomask.cli.stack import Stack
from cytomask.images import encode_mask
from cytomask.mask_index import MaskIndex
from cytomask.plate_places import place_row
from cytomask.plate_rows import Plates, StoredMap, note_row
from cytomask.platemap import parse_plate_map
from cytomask.samples.plates import DEMO_WELLS, SamplePage, write_plate
from cytomask.table import Table

pytestmark = pytest.mark.long

NOW = "2026-11-25T13:20:00.000Z"


@pytest.fixture
def stack(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        make_buckets()
        make_table()
        sessions.wire.mend()
        make: Any = sessions.of_function["command"].client
        clients = {service: make(service) for service in ("s3", "sqs", "dynamodb", "logs")}
        places = (INPUT, OUTPUT, GROUND_TRUTH, SEGMENT_QUEUE_URL, QUEUE_URL, TABLE)
        found = Stack("cytomask", *places, None, **clients)
        monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))
        monkeypatch.setattr("cytomask.cli.reindex.AT_ONCE", 1)  # moto's rows are not safe for threads
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[SamplePage]:
    return write_plate(tmp_path_factory.mktemp("plate"))


def old_row(stack: Stack, key: str, confluence: float | None, **fields: Any) -> None:
    """Write a job's row like the previous release."""
    share = "" if confluence is None else str(confluence)
    row = {
        **{"job_id": f"{abs(hash(key)):032x}", "record": "JOB", "status": "SUCCEEDED", "group": ""},
        **{"created_at": NOW, "updated_at": NOW, "image": f"s3://{INPUT}/{key}"},
        **{"mask": f"s3://{OUTPUT}/{key}.mask.png", "confluence": share, "pages": "1"},
        **{"estimated_cost_usd": "0.001", "model_sha256": "ab" * 32, **fields},
    }
    numbers = {"confluence", "pages", "estimated_cost_usd"}
    stack.dynamodb.put_item(
        TableName=TABLE,
        Item={name: {"N" if name in numbers else "S": value} for name, value in row.items() if value},
    )


@pytest.fixture
def old_stack(stack: Stack, pages: list[SamplePage]) -> Stack:
    for page in pages:
        old_row(stack, page.key, page.confluence)
    old_row(stack, "hello.tif", 0.5)
    return stack


def test_rows_of_an_earlier_release_are_put_on_their_plates(
    old_stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plates"]) == 0
    assert "no plates" in capsys.readouterr().err
    assert main(["reindex", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("49 jobs looked at; 48 would belong to 1 plate\n  demo plate\n")
    assert main(["plate", "demo plate"]) == 1
    assert main(["reindex"]) == 0
    assert "48 belong to 1 plate" in capsys.readouterr().out
    assert main(["plates"]) == 0
    assert re.search(
        r"^demo plate +6 +8 +0 h +56 h +48 +0 +- +0.0480$", capsys.readouterr().out, re.MULTILINE
    )


def test_a_reindex_reads_names_by_the_stacks_own_pattern(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = r"(?P<plate>[^/_]+)_(?P<well>[A-H][0-9]+)_t(?P<hours>[0-9]+)"
    old_row(stack, "q/mine_B3_t4.tif", 0.5)
    assert main(["reindex", "--dry-run"]) == 0
    assert "mine" not in capsys.readouterr().out
    found = replace(stack, parameters={"NamePattern": own})
    monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))
    assert main(["reindex", "--dry-run"]) == 0
    assert "1 would belong to 1 plate\n  mine\n" in capsys.readouterr().out
    assert main(["reindex"]) == 0
    assert "1 belong to 1 plate" in capsys.readouterr().out


def test_ground_truths_of_version_0_1_are_indexed_for_later_images(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("plate 1/a_mask.png", "b.json", "notes.txt"):
        stack.s3.put_object(Bucket=GROUND_TRUTH, Key=key, Body=b"x")
    index = MaskIndex(Table(stack.dynamodb, TABLE))
    assert main(["reindex", "--dry-run"]) == 0
    assert "1 ground truth found" in capsys.readouterr().out
    assert index.naming("plate 1/a.tif") == []
    assert main(["reindex"]) == 0
    assert index.naming("plate 1/a.tif") == ["plate 1/a_mask.png"]


def test_reindexing_again_changes_nothing(old_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    main(["reindex"])
    before = list(Plates(old_stack.dynamodb, TABLE).summaries())
    capsys.readouterr()
    assert main(["reindex"]) == 0
    assert "49 jobs looked at; 0 belong to 0 plates" in capsys.readouterr().out
    assert list(Plates(old_stack.dynamodb, TABLE).summaries()) == before


def test_doubling_times_come_from_the_table(old_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    main(["reindex"])
    capsys.readouterr()
    assert main(["plate", "demo plate"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("plate demo plate: 6 wells, 8 scans, 0 to 56 h, 48 pages used, 0 left out")
    for well, sample in DEMO_WELLS.items():
        (line,) = re.findall(rf"^{well} .*$", out, re.MULTILINE)
        if sample.truth is None:
            assert "no growth" in line
        else:
            (hours,) = re.findall(r"  ([\d.]+) h  +[\d.]+ to", line)
            assert float(hours) == pytest.approx(sample.truth.doubling_time_h, rel=0.12)


def test_files_are_written_from_the_table(old_stack: Stack, tmp_path: Path) -> None:
    main(["reindex"])
    names = ("csv", "wells", "conditions", "prism", "html")
    options = [part for name in names for part in (f"--{name}", str(tmp_path / name))]
    assert main(["plate", "demo plate", *options]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    rows = (tmp_path / "csv").read_text().splitlines()
    assert len(rows) == 49
    assert rows[1].startswith("demo plate,A01,1,0.0,0,")
    page = "demo plate/demo plate_Phase_A01_1_00d00h00m.tif"
    assert rows[1].endswith(f",s3://{INPUT}/{page},s3://{OUTPUT}/{page}.mask.png,,,")


def test_the_page_shows_images_with_their_masks(
    old_stack: Stack, pages: list[SamplePage], tmp_path: Path
) -> None:
    first = [page for page in pages if "_A01_" in page.key]
    for page in first:
        old_stack.s3.upload_file(str(page.image), INPUT, page.key)
        mask = np.zeros((224, 224), bool)
        mask[50:100, 50:100] = True
        old_stack.s3.put_object(Bucket=OUTPUT, Key=f"{page.key}.mask.png", Body=encode_mask(mask))
    main(["reindex"])
    main(["plate", "demo plate", "--html", str(tmp_path / "p.html")])
    (text,) = re.findall(r'type="application/json">(.*?)</script>', (tmp_path / "p.html").read_text())
    wells = json.loads(text)["wells"]
    assert [frame["h"] for frame in wells["A01"]["f"]] == [0, 8, 16, 24, 32, 40, 48, 56]
    assert wells["A01"]["f"][0]["src"].startswith("data:image/webp;base64,")
    assert wells["A02"]["f"] == []  # its images are gone


def test_an_uploaded_map_names_conditions(old_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    main(["reindex"])
    content = b"# control: control\nwell,condition\nA1:A2,control\nA3,drug\nB1,drug\n"
    stored = StoredMap(uri="s3://in/p.csv", plate_map=parse_plate_map(content, "p.csv"))
    Plates(old_stack.dynamodb, TABLE).put_map("demo plate", stored, now=NOW)
    capsys.readouterr()
    assert main(["plate", "demo plate"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^control +2 +2 +[\d.]+ h +1$", out, re.MULTILINE)
    (relative,) = re.findall(r"^drug +2 +2 +[\d.]+ h +([\d.]+)$", out, re.MULTILINE)
    assert float(relative) == pytest.approx((1 / 17 + 1 / 20) / (1 / 12 + 1 / 13), rel=0.15)


def test_an_unusable_uploaded_map_is_named(old_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    main(["reindex"])
    Plates(old_stack.dynamodb, TABLE).put_map(
        "demo plate", StoredMap(uri="s3://in/p.csv", error="bad."), now=NOW
    )
    assert main(["plate", "demo plate"]) == 0
    assert "the plate map s3://in/p.csv is not used: bad." in capsys.readouterr().err


def test_pages_that_failed_are_listed_with_their_reason(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    old_row(stack, "p_A1_1_00d00h00m.tif", None, status="REJECTED", error="it is empty", mask="")
    main(["reindex"])
    capsys.readouterr()
    assert main(["plate", "p"]) == 0
    assert (
        f"left out: s3://{INPUT}/p_A1_1_00d00h00m.tif (A01): rejected: it is empty" in capsys.readouterr().err
    )
    main(["plates", "--json"])
    (summary,) = json.loads(capsys.readouterr().out)
    assert (summary["plate"], summary["failed"], summary["wells"]) == ("p", 1, 1)


def test_the_json_of_plates_has_counts_of_0_and_tells_completeness(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    old_row(stack, "p_A1_1_00d00h00m.tif", 0.1)
    main(["reindex"])
    Plates(stack.dynamodb, TABLE).expect("p", 2, now=NOW)
    capsys.readouterr()
    main(["plates", "--json"])
    (summary,) = json.loads(capsys.readouterr().out)
    assert (summary["pages"], summary["failed"], summary["complete"]) == (1, 0, False)


@pytest.mark.parametrize(
    ("time", "shown"),
    [(None, "-"), (4.5, "4.5 h"), ("2026-11-20T10", "2026-11-20 10:00"), ("n00000003", "scan 3")],
)
def test_the_list_of_plates_shows_dates_and_scans(time: float | str | None, shown: str) -> None:
    assert shown_time(time) == shown


def test_an_unknown_quality_flag_is_refused(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plate", "p", "--leave-out", "uncertain", "blurred"])
    assert "argument --leave-out: unknown quality flag BLURRED to leave out" in capsys.readouterr().err


def test_a_plate_that_is_not_there_is_named(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plate", "x"]) == 1
    assert "has no plate x; `cytomask plates` lists them" in capsys.readouterr().err


def test_a_map_of_another_plate_ends_the_command(
    old_stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["reindex"])
    (tmp_path / "map.csv").write_text("well,condition\nH12,x\n")
    assert main(["plate", "demo plate", "--map", str(tmp_path / "map.csv")]) == 2
    assert "is it another plate's map?" in capsys.readouterr().err


def test_the_next_run_repairs_one_that_stopped_between_its_two_writes(stack: Stack) -> None:
    old_row(stack, "p_A1_1_00d00h00m.tif", 0.3)
    plates = Plates(stack.dynamodb, TABLE)
    (row,) = stack.rows.jobs(Search())
    placed = place_row(row.image or "")
    assert placed is not None
    plates.place = lambda *_: False  # type: ignore[method-assign]  # the run is stopped before it
    note_row(plates, row, placed)
    assert main(["reindex"]) == 0
    (summary,) = Plates(stack.dynamodb, TABLE).summaries()
    assert summary.pages == 1
    assert [page.well for page in Plates(stack.dynamodb, TABLE).pages("p")] == ["A01"]
