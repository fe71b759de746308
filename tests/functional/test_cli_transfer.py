"""`cytomask upload`, `submit` and `download`: files into a stack, and outputs back."""

import json
import os
import threading
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from factories import GROUND_TRUTH, INPUT, OUTPUT, SEGMENT_QUEUE_URL, request, stack_of, tiff
from functions_on_moto import EvaluateFunction, SegmentStack

from cytomask.cli import submit as submit_command
from cytomask.cli.download import local_path
from cytomask.cli.main import main
from cytomask.cli.stack import Stack

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("connected")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str, content: bytes = b"II*\0") -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def keys(stack: SegmentStack, bucket: str = INPUT) -> set[str]:
    return {found["Key"] for found in stack.s3.list_objects_v2(Bucket=bucket).get("Contents", [])}


def test_upload_leaves_out_what_cytomask_and_macos_wrote(stack: SegmentStack, capsys: Capture) -> None:
    make("in/p/a.tif", "in/b.stk", "in/p/._a.tif", "in/p/a.tif.mask.png", "in/p/a.tif.overlay.png")
    make("in/p/a.tif.probability.png", "in/notes.csv", "in/p/a.tif.result.json", "in/c.czi")
    assert main(["upload", "in"]) == 0
    assert keys(stack) == {"p/a.tif", "b.stk"}
    said = capsys.readouterr()
    assert said.out == f"s3://{INPUT}/b.stk\ns3://{INPUT}/p/a.tif\n"
    assert said.err.startswith("2 files uploaded, 0.0 MB; passed over 7 files: ")
    assert {"1 ._ of macOS", "4 written by cytomask", "1 .csv", "1 .czi"} <= set(
        said.err.strip().rpartition(": ")[2].split(", ")
    )


def test_upload_of_everything_that_a_shell_names_sends_images_only(stack: SegmentStack) -> None:
    make("a.tif", "._a.tif", "a.tif.mask.png")
    assert main(["upload", "a.tif", "._a.tif", "a.tif.mask.png"]) == 0
    assert keys(stack) == {"a.tif"}


def test_uploading_only_masks_reports_the_skipped_files(stack: SegmentStack, capsys: Capture) -> None:
    make("in/a.tif.mask.png")
    assert main(["upload", "in"]) == 2
    assert "passed over 1 file: 1 written by cytomask" in capsys.readouterr().err
    assert keys(stack) == set()


def test_a_mask_that_was_corrected_may_be_a_ground_truth(stack: SegmentStack) -> None:
    make("truths/a.png", "truths/a.tif.mask.png", "truths/a.tif.result.json", "truths/._a.png")
    make("truths/coco.json", content=b"{}")
    assert main(["upload", "--ground-truth", "truths"]) == 0
    assert keys(stack, GROUND_TRUTH) == {"a.png", "a.tif.mask.png", "coco.json"}


def test_a_large_file_goes_up_in_parts(stack: SegmentStack) -> None:
    make("large.tif", content=os.urandom(9_000_000))
    assert main(["upload", "large.tif"]) == 0
    etag = stack.s3.head_object(Bucket=INPUT, Key="large.tif")["ETag"].strip('"')
    assert etag.endswith("-2")
    assert stack.s3.get_object(Bucket=INPUT, Key="large.tif")["Body"].read() == Path("large.tif").read_bytes()


def test_a_file_that_cannot_be_sent_leaves_the_others_sent(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    broken = os.fsdecode(b"in/\xff.tif")
    make("in/a.tif", "in/b.tif", "in/c.tif", broken)
    whole = Path.stat

    def vanished(path: Path, **options: Any) -> os.stat_result:
        if path.name == "b.tif":
            raise FileNotFoundError(2, "No such file or directory")
        return whole(path, **options)

    monkeypatch.setattr("cytomask.cli.upload.find_faults", lambda _: [])
    monkeypatch.setattr(Path, "stat", vanished)
    assert main(["upload", "in"]) == 1
    assert keys(stack) == {"a.tif", "c.tif"}
    said = capsys.readouterr().err
    assert "in/b.tif  not sent: No such file or directory" in said
    assert r"in/\udcff.tif  not sent: its name is not UTF-8" in said
    assert "2 files uploaded, 0.0 MB, 2 not sent" in said


def broken_beside_slow(wrong: BaseException) -> tuple[Callable[..., None], list[str]]:
    """Make a transfer that fails for `a.tif` while `b.tif` is on its way; list `b.tif` once it ended."""
    begun, ended = threading.Event(), list[str]()

    def transfer(*told: Any) -> None:
        if "a.tif" in told:
            begun.wait(10)
            raise wrong
        begun.set()
        time.sleep(0.1)
        ended.append("b.tif")

    return transfer, ended


def test_no_file_is_on_its_way_after_a_refused_upload(
    connected: Stack, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    make("in/a.tif", "in/b.tif")
    refusal: Any = {"Error": {"Code": "NoSuchBucket", "Message": ""}}
    transfer, ended = broken_beside_slow(ClientError(refusal, "PutObject"))
    monkeypatch.setattr(connected.s3, "upload_file", lambda path, bucket, key: transfer(key))
    assert main(["upload", "in"]) == 2
    assert ended == ["b.tif"]


def test_a_key_longer_than_s3_takes_is_refused_by_its_length(stack: SegmentStack, capsys: Capture) -> None:
    make("in/" + "/".join(["d" * 200] * 6) + "/a.tif")
    assert main(["upload", "in"]) == 1
    assert "its key has 1211 bytes, but S3 allows 1024" in capsys.readouterr().err


def test_a_folder_stays_in_the_keys_of_images_that_need_it_for_their_plate(stack: SegmentStack) -> None:
    make("P7/B2_1_00d04h00m.tif", "P7/notes.tif", "P8/P8_Phase_B2_1_00d04h00m.tif")
    make("P9/Images/r01c02f03p01-ch1sk5fk1fl1.tiff", "00d04h00m/vessel 7/B2_1_Ph.tif")
    assert main(["upload", "P7", "P8", "P9/Images", "00d04h00m"]) == 0
    assert keys(stack) == {
        *("P7/B2_1_00d04h00m.tif", "P7/notes.tif", "P8_Phase_B2_1_00d04h00m.tif"),
        *("P9/Images/r01c02f03p01-ch1sk5fk1fl1.tiff", "00d04h00m/vessel 7/B2_1_Ph.tif"),
    }


def test_ground_truths_get_the_folder_of_their_images(stack: SegmentStack) -> None:
    make("P7/B2_1_00d04h00m.tif", "masks/B2_1_00d04h00m.png")
    assert main(["upload", "P7", "--ground-truth", "masks"]) == 0
    assert keys(stack, GROUND_TRUTH) == {"P7/B2_1_00d04h00m.png"}


def test_ground_truths_of_images_in_several_folders_need_one_named(
    stack: SegmentStack, capsys: Capture
) -> None:
    make("P7/B2_1_00d04h00m.tif", "P8/B2_1_00d08h00m.tif", "masks/B2_1_00d04h00m.png")
    assert main(["upload", "P7", "P8", "--ground-truth", "masks"]) == 2
    assert "begin with several folders; upload them one by one, or give --folder" in capsys.readouterr().err
    assert keys(stack) == set()


@pytest.mark.parametrize(("folder", "key"), [("", "B2_1_00d04h00m.tif"), ("X/", "X/B2_1_00d04h00m.tif")])
def test_the_folder_of_the_keys_may_be_given(stack: SegmentStack, folder: str, key: str) -> None:
    make("P7/B2_1_00d04h00m.tif")
    assert main(["upload", "P7/B2_1_00d04h00m.tif", "--folder", folder]) == 0
    assert keys(stack) == {key}


def test_plate_maps_go_with_their_images_below_their_folder(stack: SegmentStack, capsys: Capture) -> None:
    make("P7/P7_Phase_B2_1_00d04h00m.tif", "P7/platemap.csv", "P7/layout.PlateMap", "P7/P7.csv")
    make("P7/notes.csv", "P7/readme.txt")
    assert main(["upload", "P7"]) == 0
    assert keys(stack) == {
        *("P7_Phase_B2_1_00d04h00m.tif", "P7/platemap.csv", "P7/layout.PlateMap", "P7/P7.csv"),
    }
    said = capsys.readouterr().err
    assert "4 files uploaded, 0.0 MB, 3 plate maps among them; passed over 2 files: 1 .csv, 1 .txt" in said


def sent(stack: SegmentStack) -> list[str]:
    return [message["Body"] for message in stack.take_messages(SEGMENT_QUEUE_URL)]


@pytest.fixture
def delivered(stack: SegmentStack, monkeypatch: pytest.MonkeyPatch) -> SegmentStack:
    """Deliver the queue's messages to the function while the command waits."""

    def deliver(_: float) -> None:
        for body in sent(stack):
            stack.deliver(body)

    monkeypatch.setattr("cytomask.cli.submit.time.sleep", deliver)
    return stack


def test_submit_prints_the_ids_that_the_jobs_get(stack: SegmentStack, capsys: Capture) -> None:
    stack.upload("a.tif", tiff())
    images = [f"s3://{INPUT}/{name}" for name in ("a.tif", "none.tif")]
    assert main(["submit", *images, "--threshold", "0.4"]) == 0
    printed = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    for body in sent(stack):
        stack.deliver(body)
    assert printed == [[row["job_id"], row["image"]] for row in stack.rows()]
    assert [row["status"] for row in stack.rows()] == ["SUCCEEDED", "REJECTED"]


def test_submit_waits_for_the_outcome_and_shows_it(delivered: SegmentStack, capsys: Capture) -> None:
    delivered.upload("a.tif", tiff())
    assert main(["submit", f"s3://{INPUT}/a.tif", "--wait"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    row = delivered.row()
    assert lines[-1].split()[:3] == [row["job_id"][:8], "SUCCEEDED", f"{row['confluence']:.3f}"]


def test_submit_waits_for_a_rejection_too(delivered: SegmentStack, capsys: Capture) -> None:
    delivered.upload("a.tif", b"text")
    assert main(["submit", f"s3://{INPUT}/a.tif", "--wait"]) == 1
    assert "REJECTED" in capsys.readouterr().out


def test_submit_does_not_take_an_earlier_failure_for_the_outcome(
    delivered: SegmentStack, capsys: Capture
) -> None:
    delivered.upload("a.tif", tiff())
    assert delivered.deliver(request("a.tif")) == []
    delivered.set_status("FAILED", error_code="TRIES_USED_UP", error="once")
    assert main(["submit", f"s3://{INPUT}/a.tif", "--wait"]) == 0
    assert delivered.row()["status"] == "SUCCEEDED"


def test_submit_finds_the_job_of_a_stack_with_another_model(
    delivered: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered.upload("a.tif", tiff())
    monkeypatch.setattr(submit_command, "_job_id", lambda *_: "0" * 32)
    assert main(["submit", f"s3://{INPUT}/a.tif", "--wait"]) == 0


def test_submit_stops_waiting_after_its_timeout(stack: SegmentStack, capsys: Capture) -> None:
    stack.upload("a.tif", tiff())
    assert main(["submit", f"s3://{INPUT}/a.tif", "--wait", "--timeout", "0s"]) == 1
    assert f"s3://{INPUT}/a.tif has not ended after 0:00:00; `cytomask jobs " in capsys.readouterr().err


def below(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_download_fetches_what_a_job_wrote(stack: SegmentStack, capsys: Capture) -> None:
    stack.upload("p/stack.tif", stack_of(2))
    stack.deliver(request("p/stack.tif", outputs=["mask", "overlay"]))
    job_id = stack.row()["job_id"]
    capsys.readouterr()
    assert main(["download", job_id[:8], "--out", "got"]) == 0
    prefix = f"jobs/{job_id}/p/stack.tif"
    assert below("got") == {
        f"{prefix}.result.json",
        *(f"{prefix}.p000{page}.{kind}.png" for page in range(2) for kind in ("mask", "overlay")),
    }
    mask = f"{prefix}.p0001.mask.png"
    assert Path("got", mask).read_bytes() == stack.output(mask)
    assert "5 files fetched; they are in got" in capsys.readouterr().err


def test_download_fetches_by_prefix_and_by_kind(stack: SegmentStack, capsys: Capture) -> None:
    for key in ("plate 1/a.tif", "plate 1/b.tif", "plate 2/a.tif"):
        stack.segment(key, tiff())
    assert main(["download", "--prefix", "plate 1/", "--only", "mask", "--out", "got"]) == 0
    assert below("got") == {"plate 1/a.tif.mask.png", "plate 1/b.tif.mask.png"}
    assert main(["download", "--prefix", f"s3://{INPUT}/plate 2/", "--out", "other"]) == 0
    assert below("other") == {"plate 2/a.tif.mask.png", "plate 2/a.tif.result.json"}
    assert main(["download", "--prefix", "s3://elsewhere/plate 2/"]) == 2
    assert "is not in an input bucket" in capsys.readouterr().err


def test_download_fetches_a_group(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.segment("A172_Phase_1.tif", tiff())
    stack.segment("BV2_Phase_1.tif", tiff())
    stack.segment("A172_Phase_bad.tif", b"text")
    assert main(["download", "--group", "A172", "--only", "mask"]) == 0
    assert below("masks") == {"A172_Phase_1.tif.mask.png"}
    assert main(["download", "--group", "A172", "--since", "2100-01-01"]) == 1


def test_download_fetches_nothing_twice_that_has_not_changed(stack: SegmentStack, capsys: Capture) -> None:
    stack.segment("a.tif", tiff())
    assert main(["download", "--prefix", ""]) == 0
    Path("masks/a.tif.mask.png").write_bytes(b"another")
    capsys.readouterr()
    assert main(["download", "--prefix", ""]) == 0
    assert "1 file fetched, 1 there already" in capsys.readouterr().err
    assert Path("masks/a.tif.mask.png").read_bytes() == stack.output("a.tif.mask.png")


def test_no_file_is_on_its_way_after_an_interrupted_download(
    stack: SegmentStack, connected: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.tif", "b.tif"):
        stack.upload(f"{key}.mask.png", b"", bucket=OUTPUT)
    transfer, ended = broken_beside_slow(KeyboardInterrupt())
    monkeypatch.setattr(
        connected.s3, "download_file", lambda bucket, key, path: transfer(key.removesuffix(".mask.png"))
    )
    assert main(["download", "--prefix", ""]) == 130
    assert ended == ["b.tif"]


@pytest.mark.parametrize(
    "command",
    [
        ["download", "--prefix", "\udcff"],
        ["submit", f"s3://{INPUT}/\udcff.tif"],
        ["jobs", "--group", "\udcff"],
    ],
)
def test_a_name_that_is_not_utf8_is_a_sentence(command: list[str], capsys: Capture) -> None:
    assert main(command) in (0, 1, 2)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1


def test_downloading_nothing_is_reported(stack: SegmentStack, capsys: Capture) -> None:
    assert main(["download", "--prefix", "nothing/"]) == 1
    assert "there is nothing to download" in capsys.readouterr().err
    for wrong in ([], ["abc", "--group", "G"], ["--since", "1d", "--prefix", "p"]):
        assert main(["download", *wrong]) == 2


def test_one_that_cannot_be_fetched_leaves_the_others_fetched(stack: SegmentStack, capsys: Capture) -> None:
    stack.segment("a.tif", tiff())
    Path("masks/a.tif.mask.png").mkdir(parents=True)
    assert main(["download", "--prefix", ""]) == 1
    assert below("masks") == {"a.tif.result.json"}
    assert f"s3://{OUTPUT}/a.tif.mask.png  not fetched: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key", ["../../etc/x.mask.png", "/etc/x.mask.png", "a/../../x", "..", "a//b", "./x", "a\0b"]
)
def test_no_key_leads_out_of_the_folder(key: str, tmp_path: Path) -> None:
    path = local_path(tmp_path / "out", key)
    assert path.resolve().is_relative_to(tmp_path / "out")
    assert path.resolve() != tmp_path / "out"


def test_plain_keys_keep_their_names() -> None:
    key = unicodedata.normalize("NFC", "plate 1/a+b ü (1).tif.mask.png")
    assert local_path(Path("out"), key).as_posix() == f"out/{key}"


def test_a_job_without_pages_has_only_its_result(stack: SegmentStack, connected: Stack) -> None:
    job_id = stack.segment("bad.tif", b"text")["job_id"]
    assert main(["download", job_id]) == 0
    (name,) = below("masks")
    assert json.loads(Path("masks", name).read_bytes())["status"] == "REJECTED"
