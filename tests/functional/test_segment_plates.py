"""Images of a plate through the functions: rows, index, counts, plate maps, the event of a complete plate."""

from __future__ import annotations

import json
import random
import string
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
import tifffile
from factories import (
    INPUT,
    REGION,
    TABLE,
    failed_messages,
    ground_truth,
    page,
    request,
    s3_event,
    sqs_batch,
    tiff,
)

from cytomask.addresses import is_plate_map, may_be_plate_map, plates_of_map
from cytomask.arrivals import parse_body
from cytomask.errors import InvalidRequest
from cytomask.plate_rows import Plates
from cytomask.requests import SegmentRequest, message_of, parse_request
from cytomask.wells import well_name

if TYPE_CHECKING:
    from functions_on_moto import FailuresFunction, SegmentStack

KEY = "run 1/P7_Phase_B2_1_00d04h00m_3.tif"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:cytomask-plates"


SPOT = ("plate", "well", "site", "time")


def key_of(well: str, hour: int) -> str:
    return f"P7_Phase_{well}_1_00d{hour:02d}h00m.tif"


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the topic; request this fixture before the stack, whose functions publish to it."""
    monkeypatch.setenv("PLATE_TOPIC_ARN", TOPIC)


@pytest.fixture
def plates(stack: SegmentStack) -> Plates:
    return Plates(boto3.client("dynamodb"), TABLE)


def listen(stack: SegmentStack) -> str:
    """Subscribe a queue to the topic."""
    sns = boto3.client("sns")
    sns.create_topic(Name="cytomask-plates")
    url = str(stack.sqs.create_queue(QueueName="heard")["QueueUrl"])
    sns.subscribe(TopicArn=TOPIC, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:123456789012:heard")
    return url


def heard(stack: SegmentStack, url: str) -> list[dict[str, Any]]:
    messages = stack.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(json.loads(message["Body"])["Message"]) for message in messages]


def test_result_and_row_record_place_time_and_source(stack: SegmentStack) -> None:
    result = stack.segment(KEY, tiff())
    told = {
        name: result[name] for name in ("plate", "well", "site", "time", "channel", "cell_line", "placed_by")
    }
    assert told == {
        **{"plate": "P7", "well": "B02", "site": "1.3", "time": 4.0, "channel": "Phase", "cell_line": "P7"},
        **{"placed_by": "incucyte_elapsed"},
    }
    row = stack.row()
    assert {name: row[name] for name in told} == told
    assert row["place"] == "B02#0000004.0000#1.3"
    assert (row["mode"], row["pixels"]) == (
        "native",
        result["pages"][0]["height"] * result["pages"][0]["width"],
    )


def test_a_name_without_a_well_belongs_to_no_plate(stack: SegmentStack, plates: Plates) -> None:
    result = stack.segment("hello.tif", tiff())
    assert "plate" not in result
    assert "place" not in stack.row()
    assert list(plates.summaries()) == []


def test_a_job_for_probabilities_alone_takes_no_place_on_the_plate(
    stack: SegmentStack, plates: Plates
) -> None:
    whole = stack.segment(KEY, tiff())
    (looked,) = stack.handle(request(KEY, outputs=["probability"]))
    assert looked["status"] == "SUCCEEDED"
    assert [page.job_id for page in plates.pages("P7")] == [whole["job_id"]]
    summary = plates.summary("P7")
    assert summary is not None
    assert summary.pages == 1
    assert summary.cost_usd == pytest.approx(whole["estimated_cost_usd"])


def test_pages_are_listed_by_plate(stack: SegmentStack, plates: Plates) -> None:
    for hour in (4, 0):
        stack.segment(key_of("B2", hour), tiff())
    assert [page.time for page in plates.pages("P7")] == [0.0, 4.0]
    summary = plates.summary("P7")
    assert summary is not None
    assert (summary.pages, summary.wells, summary.scans, summary.failed) == (2, 1, 2, 0)


def test_a_requests_fields_override_the_name(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    told = {"plate": "mine", "well": "c3", "site": 2, "time": "01d00h00m", "cell_line": "HeLa"}
    (result,) = stack.handle(request(KEY, **told))
    assert (result["plate"], result["well"], result["site"], result["time"]) == ("mine", "C03", "2", 24.0)
    assert (result["cell_line"], result["placed_by"]) == ("HeLa", "request, incucyte_elapsed")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("plate", "a/b", "`plate`: 'a/b' has 3 characters; a plate's name takes 1 to 128"),
        ("plate", "x" * 1000, "has 1000 characters"),
        ("plate", 7, "`plate`"),
        ("well", "Z99", "`well`: 'Z99' is not a well of a plate"),
        ("time", "soon", "`time`: 'soon' is none of"),
        ("time", -1, "`time`"),
        ("site", [], "`site`"),
        ("expected_pages", 0, "`expected_pages`"),
    ],
)
def test_an_impossible_place_is_refused(field: str, value: object, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"image": f"s3://{INPUT}/a.tif", field: value})
    assert sentence in str(refused.value)


def test_a_plates_name_may_hold_a_hash(stack: SegmentStack, plates: Plates) -> None:
    stack.segment("Greiner_#655090_C02_T0001F001L01A01Z01C01.tif", tiff())
    assert [page.well for page in plates.pages("Greiner_#655090")] == ["C02"]


def test_a_message_carries_every_field_of_a_request() -> None:
    asked = parse_request(
        {"image": "s3://bucket/a.tif", "plate": "p", "well": "B2", "site": 1, "time": 4, "expected_pages": 9}
    )
    (again,) = parse_body(message_of(asked))
    assert isinstance(again, SegmentRequest)
    assert again == asked


def test_the_tiffs_date_is_the_time_if_the_name_has_none(stack: SegmentStack) -> None:
    result = stack.segment(
        "X/TimePoint_1/X_A01_s1_w1.tif", tiff(datetime="2026:11:25 13:20:11", metadata=None)
    )
    assert (result["time"], result["frame"]) == ("2026-11-25T13:20:11", 1)
    assert result["placed_by"] == "image_xpress, tiff"


def test_each_frame_of_a_stack_is_a_page(
    stack: SegmentStack, plates: Plates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("stack") / "a.tif"
    frames = np.stack([page(seed) for seed in range(2)])
    tifffile.imwrite(
        path, frames, imagej=True, metadata={"axes": "TYX", "finterval": 14400.0, "tunit": "sec"}
    )
    message = request("movie.tif", plate="p", well="A1", pixel_size_um=0.5)
    stack.upload("movie.tif", path.read_bytes())
    (result,) = stack.handle(message)
    assert [each["time"] for each in result["pages"]] == [0.0, 4.0]
    found = list(plates.pages("p"))
    assert [(each.page, each.time) for each in found] == [(0, 0.0), (1, 4.0)]
    assert [each.mask for each in found] == [each["mask"] for each in result["pages"]]
    areas = [each["cell_area_mm2"] for each in result["pages"]]
    assert [each.cell_area_mm2 for each in found] == pytest.approx(areas)
    assert result["cell_area_mm2"] == pytest.approx(sum(areas))
    summary = plates.summary("p")
    assert summary is not None
    assert (summary.pages, summary.scans, summary.first, summary.last) == (2, 2, 0.0, 4.0)


def test_pages_of_a_stack_without_times_are_scans_in_their_order(stack: SegmentStack, plates: Plates) -> None:
    content = BytesIO()
    frames = np.stack([page(seed) for seed in range(2)])
    tifffile.imwrite(content, frames, photometric="minisblack", metadata=None)
    stack.upload("movie.tif", content.getvalue())
    stack.handle(request("movie.tif", plate="p", well="A1"))
    assert [(each.time, each.frame) for each in plates.pages("p")] == [(None, 0), (None, 1)]
    summary = plates.summary("p")
    assert summary is not None
    assert (summary.pages, summary.scans) == (2, 2)


@pytest.mark.parametrize(
    ("key", "pages", "times"),
    [
        ("P7_Phase_B2_1_01d00h00m.tif", "all", [24.0, 28.0]),
        ("P7_Phase_B2_1_01d00h00m.tif", "1", [28.0]),
        ("P7/TimePoint_1/P7_B02_s1_w1.tif", "1", [4.0]),
    ],
)
def test_a_names_time_is_that_of_a_stacks_first_frame(
    key: str, pages: str, times: list[float], stack: SegmentStack, plates: Plates
) -> None:
    frames = np.stack([page(seed) for seed in range(2)])
    content = BytesIO()
    tifffile.imwrite(content, frames, imagej=True, metadata={"axes": "TYX", "finterval": 4.0, "tunit": "h"})
    stack.upload(key, content.getvalue())
    (result,) = stack.handle(request(key, pages=pages))
    assert [each["time"] for each in result["pages"]] == times
    assert result["time"] == times[0]
    assert [each.time for each in plates.pages("P7")] == times


def counts(plates: Plates, name: str) -> tuple[int, int, int, int]:
    """Return a plate's wells, scans, pages and failures."""
    summary = plates.summary(name)
    assert summary is not None
    return summary.wells, summary.scans, summary.pages, summary.failed


class TestPlaceOfAFinishedImage:
    """A request may come after the upload alone has made the mask."""

    def test_a_later_request_places_an_image_whose_name_says_nothing(
        self, stack: SegmentStack, plates: Plates
    ) -> None:
        before = stack.segment("img.tif", tiff())
        (result,) = stack.handle(request("img.tif", plate="REQ", well="b2", site=1, time=4))
        assert (result["plate"], result["well"], result["site"], result["time"]) == ("REQ", "B02", "1", 4.0)
        assert result["placed_by"] == "request"
        assert result == before | {name: result[name] for name in (*SPOT, "placed_by")}
        assert stack.result("img.tif.result.json") == result
        row = stack.row()
        assert (row["status"], row["attempt"], row["place"]) == ("SUCCEEDED", 1, "B02#0000004.0000#1")
        assert {"owner", "lease_until", "created_at"} & row.keys() == set()
        (page,) = plates.pages("REQ")
        assert (page.well, page.confluence) == ("B02", result["confluence"])
        assert counts(plates, "REQ") == (1, 1, 1, 0)

    def test_a_repeated_request_changes_nothing(self, stack: SegmentStack, plates: Plates) -> None:
        stack.segment("img.tif", tiff())
        asked = request("img.tif", plate="REQ", well="B2")
        for message in (asked, asked, s3_event("img.tif"), asked):
            stack.handle(message)
        (summary,) = plates.summaries()
        assert (summary.plate, summary.pages) == ("REQ", 1)
        assert summary.cost_usd == pytest.approx(
            stack.result("img.tif.result.json")["estimated_cost_usd"], abs=1e-9
        )

    def test_fields_that_a_later_request_leaves_out_stay(self, stack: SegmentStack) -> None:
        stack.segment(KEY, tiff())
        stack.handle(request(KEY, plate="mine", cell_line="HeLa"))
        (result,) = stack.handle(request(KEY, well="C3"))
        assert {name: result[name] for name in SPOT} == {
            **{"plate": "mine", "well": "C03", "site": "1.3", "time": 4.0}
        }
        assert (result["cell_line"], result["placed_by"]) == ("HeLa", "request, incucyte_elapsed")

    def test_a_place_and_a_group_may_come_together(self, stack: SegmentStack) -> None:
        stack.segment(KEY, tiff())
        (result,) = stack.handle(request(KEY, plate="mine", group="treated"))
        assert (result["plate"], stack.row()["plate"], stack.row()["group"]) == ("mine", "mine", "treated")

    def test_the_files_date_is_read_once_the_well_is_known(self, stack: SegmentStack) -> None:
        stack.segment("img.tif", tiff(datetime="2026:11:25 13:20:11", metadata=None))
        (result,) = stack.handle(request("img.tif", plate="p", well="A1"))
        assert (result["time"], result["placed_by"]) == ("2026-11-25T13:20:11", "request, tiff")

    def test_a_date_of_many_numbers_gives_no_time(self, stack: SegmentStack) -> None:
        date = 306, "I", 2000, (0,) * 2000, True
        stack.segment("img.tif", tiff(extratags=[date], metadata=None))
        (result,) = stack.handle(request("img.tif", plate="p", well="A1"))
        assert (result["well"], result["status"]) == ("A01", "SUCCEEDED")
        assert "time" not in result

    def test_an_image_that_moves_to_another_plate_leaves_the_first(
        self, stack: SegmentStack, plates: Plates
    ) -> None:
        for key in (key_of("B2", 0), key_of("B3", 4)):
            stack.segment(key, tiff())
        stack.handle(request(key_of("B2", 0), plate="Q"))
        assert counts(plates, "P7") == (1, 1, 1, 0)
        assert counts(plates, "Q") == (1, 1, 1, 0)
        assert [page.well for page in plates.pages("P7")] == ["B03"]
        spent = {each.plate: each.cost_usd for each in plates.summaries()}
        own = float(stack.result(f"{key_of('B2', 0)}.result.json")["estimated_cost_usd"])
        assert spent["Q"] == pytest.approx(own, abs=1e-9)
        stack.handle(request(key_of("B2", 0), plate="P7"))
        assert counts(plates, "P7") == (2, 2, 2, 0)
        assert counts(plates, "Q") == (0, 0, 0, 0)

    def test_a_scan_stays_while_another_well_has_it(self, stack: SegmentStack, plates: Plates) -> None:
        for well in ("B2", "B3"):
            stack.segment(key_of(well, 4), tiff())
        stack.handle(request(key_of("B2", 4), plate="Q"))
        assert counts(plates, "P7") == (1, 1, 1, 0)

    def test_a_stack_takes_its_scans_along_unless_another_has_them(
        self, stack: SegmentStack, plates: Plates, tmp_path: Path
    ) -> None:
        times = {"axes": "TYX", "finterval": 14400.0, "tunit": "sec"}
        for name, count in (("a", 3), ("b", 2)):
            frames = np.stack([page(seed) for seed in range(count)])
            tifffile.imwrite(tmp_path / name, frames, imagej=True, metadata=times)
            stack.upload(f"{name}.tif", (tmp_path / name).read_bytes())
            stack.handle(request(f"{name}.tif", plate="P", well="A1" if name == "a" else "A2"))
        assert counts(plates, "P") == (2, 3, 5, 0)
        stack.handle(request("a.tif", plate="Q"))
        assert counts(plates, "P") == (1, 2, 2, 0)
        assert counts(plates, "Q") == (1, 3, 3, 0)

    def test_a_place_stays_counted_while_another_mask_is_there(
        self, stack: SegmentStack, plates: Plates
    ) -> None:
        stack.segment(key_of("B2", 0), tiff())
        stack.handle(request(key_of("B2", 0), threshold=0.4))
        stack.handle(request(key_of("B2", 0), plate="Q"))
        assert counts(plates, "P7") == (1, 1, 1, 0)
        assert counts(plates, "Q") == (1, 1, 1, 0)

    def test_a_rejected_image_moves_too(self, stack: SegmentStack, plates: Plates) -> None:
        stack.segment(KEY, b"no image")
        stack.handle(request(KEY, plate="Q"))
        assert counts(plates, "P7") == (0, 0, 0, 0)
        assert counts(plates, "Q") == (1, 1, 0, 1)

    @pytest.mark.parametrize(
        "skip", [pytest.param(skip, marks=[pytest.mark.slow] if skip % 3 else []) for skip in range(9)]
    )
    @pytest.mark.parametrize("call", ["UpdateItem", "PutObject"])
    def test_a_move_that_was_cut_off_is_finished_by_the_next_delivery(
        self, stack: SegmentStack, plates: Plates, call: str, skip: int
    ) -> None:
        stack.segment(KEY, tiff())
        asked = sqs_batch(request(KEY, plate="Q", well="A1"))
        stack.wire.cut(call, skip)
        stack.handle(asked)
        stack.wire.mend()
        if stack.row()["status"] == "RUNNING":
            stack.expire_lease()
        assert failed_messages(stack.handle(asked)) == []
        assert counts(plates, "P7") == (0, 0, 0, 0)
        assert counts(plates, "Q") == (1, 1, 1, 0)
        assert stack.row()["status"] == "SUCCEEDED"
        assert stack.result(f"{KEY}.result.json")["plate"] == stack.row()["plate"] == "Q"

    def test_the_place_follows_a_request_that_takes_over_from_a_function_that_died(
        self, stack: SegmentStack, plates: Plates
    ) -> None:
        stack.upload(KEY, tiff())
        stack.wire.cut("UpdateItem", skip=5)
        stack.handle(sqs_batch(s3_event(KEY)))
        stack.wire.mend()
        assert counts(plates, "P7") == (1, 1, 1, 0)
        stack.expire_lease()
        stack.handle(request(KEY, plate="Q"))
        assert counts(plates, "P7") == (0, 0, 0, 0)
        assert counts(plates, "Q") == (1, 1, 1, 0)

    def test_two_channels_of_a_place_are_two_pages(self, stack: SegmentStack, plates: Plates) -> None:
        for channel in ("Phase", "Green"):
            stack.segment(f"CH_{channel}_B2_1_00d00h00m.tif", tiff())
        assert counts(plates, "CH") == (1, 1, 2, 0)
        stack.handle(request("CH_Green_B2_1_00d00h00m.tif", plate="Q"))
        assert counts(plates, "CH") == (1, 1, 1, 0)


def test_a_page_that_is_delivered_twice_counts_once(stack: SegmentStack, plates: Plates) -> None:
    stack.segment(KEY, tiff())
    stack.handle(s3_event(KEY))
    summary = plates.summary("P7")
    assert summary is not None
    assert summary.pages == 1


def test_a_page_counts_once_after_the_function_died(stack: SegmentStack, plates: Plates) -> None:
    stack.upload(KEY, tiff())
    stack.wire.fail("UpdateItem", "InternalServerError", 500, times=1, skip=3)
    stack.handle(sqs_batch(s3_event(KEY)))
    stack.wire.mend()
    assert failed_messages(stack.handle(sqs_batch(s3_event(KEY)))) == []
    summary = plates.summary("P7")
    assert summary is not None
    assert (summary.pages, summary.failed) == (1, 0)


def test_a_rejected_page_is_counted_as_failed(stack: SegmentStack, plates: Plates) -> None:
    stack.segment(KEY, b"no image")
    summary = plates.summary("P7")
    assert summary is not None
    assert (summary.pages, summary.failed) == (0, 1)
    (found,) = plates.pages("P7")
    assert found.status == "REJECTED"
    assert found.error


def test_a_failed_page_counts_as_failed_until_it_succeeds(
    stack: SegmentStack, failures: FailuresFunction, plates: Plates
) -> None:
    stack.upload(KEY, tiff())
    failures.deliver(s3_event(KEY))
    before = plates.summary("P7")
    assert before is not None
    assert (before.pages, before.failed) == (0, 1)
    assert [each.status for each in plates.pages("P7")] == ["FAILED"]
    stack.handle(s3_event(KEY))
    after = plates.summary("P7")
    assert after is not None
    assert (after.pages, after.failed) == (1, 0)


@pytest.mark.usefixtures("topic")
class TestCompletePlate:
    def test_a_complete_plate_is_announced_once_despite_repeated_pages(
        self, topic: None, stack: SegmentStack
    ) -> None:
        url = listen(stack)
        keys = [key_of(well, hour) for well in ("B2", "B3") for hour in (0, 4)]
        for key in keys:
            stack.upload(key, tiff())
        for key in [*keys[:3], keys[0]]:
            stack.handle(request(key, expected_pages=4))
        assert heard(stack, url) == []
        for key in [keys[3], keys[3], keys[0]]:
            stack.handle(request(key, expected_pages=4))
        (event,) = heard(stack, url)
        assert (event["event"], event["plate"], event["pages"], event["wells"]) == (
            "plate_complete",
            "P7",
            4,
            2,
        )
        assert event["cost_usd"] > 0
        assert (event["failed"], event["complete"]) == (0, True)

    def test_expected_pages_may_come_after_the_last_mask(self, topic: None, stack: SegmentStack) -> None:
        url = listen(stack)
        for hour in (0, 4):
            stack.segment(key_of("B2", hour), tiff())
        for _ in range(2):
            stack.handle(request(key_of("B2", 0), expected_pages=2))
        (event,) = heard(stack, url)
        assert (event["pages"], event["expected_pages"]) == (2, 2)

    def test_the_move_of_the_last_page_announces_its_new_plate(
        self, topic: None, stack: SegmentStack
    ) -> None:
        url = listen(stack)
        for hour in (0, 4):
            stack.segment(key_of("B2", hour), tiff())
        stack.handle(request(key_of("B2", 0), plate="Q", expected_pages=2))
        assert heard(stack, url) == []
        stack.handle(request(key_of("B2", 4), plate="Q"))
        stack.handle(request(key_of("B2", 4), plate="R"))
        stack.handle(request(key_of("B2", 4), plate="Q"))
        assert [event["plate"] for event in heard(stack, url)] == ["Q"]

    def test_a_move_within_a_plate_does_not_complete_it(self, topic: None, stack: SegmentStack) -> None:
        url = listen(stack)
        for hour in (0, 4):
            stack.upload(key_of("B2", hour), tiff())
            stack.handle(request(key_of("B2", hour), expected_pages=3))
        stack.handle(request(key_of("B2", 4), well="B3"))
        assert heard(stack, url) == []

    def test_channels_count_towards_the_expected_pages(self, topic: None, stack: SegmentStack) -> None:
        url = listen(stack)
        for channel in (1, 2):
            key = f"plate/r01c02f03p01-ch{channel}sk1fk1fl1.tiff"
            stack.upload(key, tiff())
            stack.handle(request(key, expected_pages=2))
        assert [event["pages"] for event in heard(stack, url)] == [2]

    def test_refused_pages_are_counted(self, topic: None, stack: SegmentStack) -> None:
        url = listen(stack)
        stack.upload(key_of("B2", 0), b"no image")
        stack.upload(key_of("B2", 4), tiff())
        for hour in (0, 4):
            stack.handle(request(key_of("B2", hour), expected_pages=2))
        (event,) = heard(stack, url)
        assert (event["pages"], event["failed"]) == (1, 1)

    def test_a_map_uploaded_after_the_last_page_announces_the_plate(
        self, topic: None, stack: SegmentStack
    ) -> None:
        url = listen(stack)
        stack.segment(key_of("B2", 0), tiff())
        stack.upload("P7.platemap.csv", b"# expected pages: 1\nwell,condition\nB2,x\n")
        stack.handle(s3_event("P7.platemap.csv"))
        assert [event["plate"] for event in heard(stack, url)] == ["P7"]

    def test_a_complete_plate_is_announced_by_the_next_delivery_if_publishing_failed(
        self, topic: None, stack: SegmentStack
    ) -> None:
        stack.upload(key_of("B2", 0), tiff())
        message = sqs_batch(request(key_of("B2", 0), expected_pages=1))
        assert failed_messages(stack.handle(message)) == [0]  # there is no topic yet
        url = listen(stack)
        assert failed_messages(stack.handle(message)) == []
        assert len(heard(stack, url)) == 1


def test_an_uploaded_map_is_kept_for_its_plate(stack: SegmentStack, plates: Plates) -> None:
    stack.upload("run/P7.platemap.csv", b"well;condition;dose\nA1:A2;DMSO;0,5\n")
    assert stack.handle(s3_event("run/P7.platemap.csv")) == []
    stored = plates.map_of("P7")
    assert stored is not None
    assert stored.plate_map is not None
    assert list(stored.plate_map.wells) == ["A01", "A02"]
    assert stack.rows() == []


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<!DOCTYPE a><a/>", b"a,b\n1,2\n", b"x" * (5 * 2**20)),
        b"<w><well row='%s' col='1'/></w>" % (b"1" * 4900),
    ],
)
def test_an_unusable_map_is_kept_with_its_reason(stack: SegmentStack, plates: Plates, content: bytes) -> None:
    stack.upload("P7.PlateMap", content)
    assert stack.handle(s3_event("P7.PlateMap")) == []
    stored = plates.map_of("P7")
    assert stored is not None
    assert stored.plate_map is None
    assert stored.error


def test_a_map_of_a_full_plate_with_long_names_is_kept(stack: SegmentStack, plates: Plates) -> None:
    long = b"x" * 200 + b"," + b"y" * 200
    stack.upload("P7.platemap.csv", b"well,condition,compound\nA1:AF48," + long + b"\n")
    assert stack.handle(s3_event("P7.platemap.csv")) == []
    stored = plates.map_of("P7")
    assert stored is not None
    assert stored.plate_map is not None
    assert len(stored.plate_map.wells) == 1536


def test_a_map_too_large_for_a_row_is_kept_with_its_reason(stack: SegmentStack, plates: Plates) -> None:
    chance = random.Random(0)
    lines = ["well,condition,compound"]
    for number in range(1536):
        names = ["".join(chance.choices(string.ascii_letters + string.digits, k=200)) for _ in range(2)]
        lines.append(",".join([well_name(number // 48, number % 48), *names]))
    stack.upload("P7.platemap.csv", "\n".join(lines).encode())
    assert stack.handle(s3_event("P7.platemap.csv")) == []
    stored = plates.map_of("P7")
    assert stored is not None
    assert stored.plate_map is None
    assert "at most 380 kB can be kept" in (stored.error or "")


@pytest.mark.parametrize(
    ("key", "plates"),
    [
        ("a/P7.PlateMap", ("P7", "a")),
        ("P7.platemap.csv", ("P7",)),
        ("my plate/platemap.csv", ("my plate",)),
        ("my plate/platemap.xml", ("my plate",)),
        ("P7/P7_platemap.csv", ("P7",)),
        ("P7/Plate Map.txt", ("P7",)),
        ("x/VID 1.platemap.xml", ("VID 1", "x")),
        ("platemap.csv", ()),
    ],
)
def test_a_map_belongs_to_the_plate_of_its_name_or_its_folder(key: str, plates: tuple[str, ...]) -> None:
    assert is_plate_map(key)
    assert plates_of_map(key) == plates


@pytest.mark.parametrize("key", ["notes.csv", "P7/wells.csv", "mymap.xml", "platemap", "P7/myplatemap.csv"])
def test_another_sidecar_is_no_plate_map(key: str) -> None:
    assert not is_plate_map(key)
    assert not may_be_plate_map(key)


def upload_map(stack: SegmentStack, key: str, content: bytes) -> None:
    stack.upload(key, content)
    assert stack.handle(s3_event(key)) == []


def condition(plates: Plates, plate: str) -> str | None:
    """Return the condition of A01 in a plate's map; None if it has no map."""
    stored = plates.map_of(plate)
    return stored.plate_map.wells["A01"].condition if stored and stored.plate_map else None


def test_a_map_with_a_name_of_its_own_serves_its_folder(stack: SegmentStack, plates: Plates) -> None:
    upload_map(stack, "P7/layout.PlateMap", b"# expected pages: 9\nwell,condition\nA1,DMSO\n")
    assert condition(plates, "P7") == "DMSO"
    assert list(plates.summaries()) == []  # no plate `layout`, nor one without images
    stack.segment("P7/B2_1_00d04h00m.tif", tiff())
    assert [(each.plate, each.expected_pages) for each in plates.summaries()] == [("P7", 9)]


def test_a_plates_own_map_is_not_replaced_by_another_in_its_folder(
    stack: SegmentStack, plates: Plates
) -> None:
    upload_map(stack, "P7/platemap.csv", b"well,condition\nA1,own\n")
    upload_map(stack, "P7/P8.PlateMap", b"well,condition\nA1,other\n")
    assert (condition(plates, "P7"), condition(plates, "P8")) == ("own", "other")
    upload_map(stack, "P7/platemap.csv", b"well,condition\nA1,newer\n")
    assert condition(plates, "P7") == "newer"


def test_a_table_with_its_folders_name_is_a_map_if_it_can_be_one(stack: SegmentStack, plates: Plates) -> None:
    upload_map(stack, "P7/P7.csv", b"well,condition\nA1,DMSO\n")
    upload_map(stack, "P7/P7.csv", b"well,area\nA1,3\n")
    assert condition(plates, "P7") == "DMSO"


def test_a_map_with_a_huge_cell_is_kept_with_its_reason(stack: SegmentStack, plates: Plates) -> None:
    upload_map(stack, "P7.platemap.csv", b'well,condition\nA1,"' + b"0" * 200_000 + b'"\n')
    stored = plates.map_of("P7")
    assert stored is not None
    assert "line 2 of P7.platemap.csv has 200,005 characters" in (stored.error or "")


def test_a_plates_row_keeps_the_newest_score(stack: SegmentStack, evaluate: Any, plates: Plates) -> None:
    stack.segment(KEY, tiff())
    evaluate.upload(KEY.replace(".tif", ".png"), ground_truth())
    (found,) = plates.pages("P7")
    (scored,) = [row for row in stack.rows("EVAL#") if "iou" in row]
    assert found.iou == float(scored["iou"])
