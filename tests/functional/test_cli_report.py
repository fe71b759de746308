"""`cytomask report`, against faked AWS resources."""

import base64
import csv
import io
import json
import re
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import (
    GROUND_TRUTH,
    HEIGHT,
    INPUT,
    OUTPUT,
    WIDTH,
    ground_truth,
    page,
    png,
    request,
    stack_of,
    tiff,
)
from functions_on_moto import EvaluateFunction, SegmentStack
from PIL import Image

from cytomask.cli import report_page
from cytomask.cli.console import OutputClosed
from cytomask.cli.main import main
from cytomask.cli.summary import Job, worst_median_best
from cytomask.images import FALSE_NEGATIVE
from cytomask.records import EvaluationRow, JobRow
from cytomask.samples.fields import phase_contrast_field

OLD, NEW = "a" * 64, "b" * 64
KEY = "plate 1/A172_Phase_C7_1.tif"


@pytest.fixture
def deployed(stack: SegmentStack, connected: Any) -> Any:
    """Return the stack's resources, and let the command find them."""
    return stack


class Table:
    """Write rows like the functions, each a second newer than the previous one."""

    def __init__(self, stack: SegmentStack) -> None:
        self.stack = stack
        self._table = stack.table
        self._seconds = 0

    def put(self, row: Any) -> None:
        self._seconds += 1
        written = f"2026-01-01T00:{self._seconds // 60:02d}:{self._seconds % 60:02d}.000Z"
        self._table.put_item(Item={"created_at": written, "updated_at": written} | row)

    def job(self, job_id: str, model: Any = OLD, group: str = "A172", **fields: Any) -> None:
        row = {"job_id": job_id, "record": "JOB", "status": "SUCCEEDED", "model_sha256": model}
        row |= {"group": group, "image": f"s3://{INPUT}/{job_id[0]}.tif", "confluence": Decimal("0.5")}
        row |= {"mask": f"s3://{OUTPUT}/{job_id}.mask.png", "result": f"s3://{OUTPUT}/{job_id}.result.json"}
        self.put({name: value for name, value in (row | fields).items() if value not in (None, "")})

    def evaluation(self, job_id: str, version: Any, counts: Any = None, **fields: Any) -> None:
        row: dict[str, Any] = {"job_id": job_id, "record": f"EVAL#{version}", "evaluation_status": "SCORED"}
        row |= {"ground_truth": f"s3://{GROUND_TRUTH}/{job_id[0]}.png"}
        if counts:
            agreed, found_only, true_only = counts
            wrong = found_only + true_only
            ratios = {"iou": agreed / (agreed + wrong), "dice": 2 * agreed / (2 * agreed + wrong)}
            ratios |= {"boundary_f1": 0.25, "confluence": 0.5, "true_confluence": 0.125}
            row |= {name: Decimal(str(value)) for name, value in ratios.items()}
            names = ("true_positive", "false_positive", "false_negative")
            row |= dict(zip(names, counts, strict=True))
        self.put(row | fields)


@pytest.fixture
def rows(deployed: Any) -> Any:
    """Two models and two groups; a refused image, a mask without a score, a corrected ground truth."""
    table = Table(deployed)
    table.job("a1")
    table.evaluation("a1", "v1", (1, 9, 0), updated_at="2027")  # IoU 0.1, scored after the correction
    table.evaluation("a1", "v2", (6, 2, 2))  # IoU 0.6, Dice 0.75
    table.job("b1", confluence=Decimal("0.25"))
    table.evaluation("b1", "v1", (90, 10, 0))  # IoU 0.9, Dice 0.947
    table.job("c1", group="BV2", confluence=Decimal("0.75"))
    table.put({"job_id": "c1", "record": "EVAL#awaiting", "evaluation_status": "AWAITING_GROUND_TRUTH"})
    table.job(
        "d1", group="BV2", status="REJECTED", confluence=None, error_code="EMPTY_IMAGE", error="d is <b>"
    )
    table.job("a2", NEW)
    table.evaluation("a2", "v2", (8, 0, 0))  # IoU 1
    table.job("b2", NEW)
    table.evaluation(
        "b2", "v1", evaluation_status="REJECTED", error_code="GROUND_TRUTH_MISMATCH", error="b.png is 1 x 1"
    )
    table.job("e0", "", "", status="FAILED", confluence=None, error_code="TIMED_OUT", error="too slow")
    return table


def tables(capsys: pytest.CaptureFixture[str]) -> Any:
    """Parse the printed tables: (group, model) -> column -> value."""
    found: dict[Any, Any] = {}
    heads: list[Any] = []
    for line in capsys.readouterr().out.splitlines():
        cells = re.split(r" {2,}", line.strip())
        if cells[:2] == ["group", "model"]:
            heads = cells[2:]
        elif len(cells) > 2:
            found.setdefault((cells[0], cells[1]), {}).update(zip(heads, cells[2:], strict=True))
    return found


def test_flagged_masks_are_counted_and_come_first(
    rows: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows.job("f1", quality=["UNUSUAL", "UNCERTAIN"], quality_values={"UNCERTAIN": Decimal("0.4213")})
    rows.job("f2", quality=["UNUSUAL"], group="")
    rows.job("g1")
    assert main(["report", "--csv", str(tmp_path / "a.csv"), "--html", str(tmp_path / "a.html")]) == 0
    lines = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    counts = {tuple(line[:1] + line[2:]) for line in lines if line[2:3] in (["UNUSUAL"], ["UNCERTAIN"])}
    assert counts == {("A172", "UNCERTAIN", "1"), ("A172", "UNUSUAL", "1"), ("no group", "UNUSUAL", "1")}
    with (tmp_path / "a.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert {row["job_id"] for row in written[:2]} == {"f1", "f2"}
    assert {row["quality"] for row in written[:2]} == {"UNUSUAL UNCERTAIN=0.421", "UNUSUAL"}
    assert all(row["quality"] == "" for row in written[2:])
    html = (tmp_path / "a.html").read_text()
    assert html.index("Look at these first") < html.index("The worst, the median")
    assert "<code>UNUSUAL UNCERTAIN=0.421</code>" in html


def test_each_group_and_model_has_a_row_of_measures(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    found = tables(capsys)
    # Pooled for the old model: (6 + 90) of (6 + 2 + 2 + 90 + 10) pixels.
    assert found["all groups", "a" * 12] == {
        "images": "4",
        "jobs": "4",
        "masks": "3",
        "flagged": "0",
        "failures": "1",
        "confluence": "0.500",
        "scored": "2",
        "IoU": "0.750",
        "IoU pooled": "0.873",
        "Dice": "0.849",
        "Dice pooled": "0.932",
        "boundary F1": "0.250",
        "confluence scored": "0.500",
        "confluence true": "0.125",
        "count": "1",
        "failure": "REJECTED EMPTY_IMAGE",
    }
    assert found["all groups", "b" * 12]["IoU"] == "1.000"
    assert found["all groups", "b" * 12]["failure"] == "score REJECTED GROUND_TRUTH_MISMATCH"
    assert found["all groups", "no model"]["failure"] == "FAILED TIMED_OUT"


def test_every_group_has_its_own_measures(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    found = tables(capsys)
    assert list(dict.fromkeys(group for group, _ in found)) == ["all groups", "no group", "A172", "BV2"]
    assert found["A172", "a" * 12]["IoU pooled"] == "0.873"
    assert (found["A172", "a" * 12]["confluence"], found["A172", "b" * 12]["confluence"]) == (
        "0.375",
        "0.500",
    )
    assert found["BV2", "a" * 12]["masks"] == "1"
    assert "IoU" not in found["BV2", "a" * 12]
    assert found["BV2", "a" * 12]["failure"] == "REJECTED EMPTY_IMAGE"


def test_the_report_says_when_it_was_made_and_of_which_days(
    rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report"]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"stack cytomask: 7 jobs of 2026-01-01; made \d{4}-\d\d-\d\d \d\d:\d\d UTC", head)


def test_a_shipped_model_is_called_by_its_name(deployed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    deployed.segment(KEY, tiff())
    capsys.readouterr()
    assert main(["report"]) == 0
    assert [model for _, model in tables(capsys)] == [deployed.predictor.manifests["native"].name]


def test_another_model_is_called_by_the_name_in_its_results(
    rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"name": "mine-1", "sha256": OLD, "training_data_licence": "mine"}
    written = {"status": "SUCCEEDED", "job_id": "a1", "model": model}
    rows.stack.s3.put_object(Bucket=OUTPUT, Key="a1.result.json", Body=json.dumps(written))
    assert main(["report", "--group", "A172"]) == 0
    assert [model for _, model in tables(capsys)] == ["mine-1", "b" * 12]


def test_jobs_made_before_a_date_are_left_out(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--since", "2026-01-01T00:00:10"]) == 0
    found = tables(capsys)
    assert {model for _, model in found} == {"b" * 12, "no model"}
    assert main(["report", "--until", "2025-12-31"]) == 1


def test_one_group_can_be_asked_for(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--group", "BV2"]) == 0
    found = tables(capsys)
    assert list(found) == [("BV2", "a" * 12)]
    assert found["BV2", "a" * 12]["jobs"] == "2"


def test_models_scored_on_different_images_are_not_compared_in_silence(
    rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report"]) == 0
    assert "scored on different images and share only 1 of them" in capsys.readouterr().err


def test_models_scored_on_the_same_images_need_no_warning(
    rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.evaluation("b2", "v3", (8, 0, 0))
    assert main(["report"]) == 0
    assert capsys.readouterr().err == ""


def test_an_empty_report_is_reported_and_no_file_written(
    deployed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--group", "HeLa", "--csv", str(tmp_path / "scores.csv")]) == 1
    assert "the stack `cytomask` has no jobs that you asked for" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_rows_past_dynamodbs_page_of_one_megabyte_count(
    rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        rows.job(f"x{number}", group="long", status="REJECTED", error_code="EMPTY_IMAGE", error="x" * 300_000)
    assert main(["report"]) == 0
    assert tables(capsys)["long", "a" * 12]["jobs"] == "5"
    assert main(["report", "--group", "long"]) == 0
    assert tables(capsys)["long", "a" * 12]["jobs"] == "5"


def test_totals_count_jobs_beyond_the_listed_ones(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(150):
        rows.job(f"x{number}", group="many")
    assert main(["report"]) == 0
    assert tables(capsys)["many", "a" * 12]["masks"] == "150"


def read_csv(path: Path) -> Any:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_row_for_each_job_and_evaluation(rows: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.csv"
    rows.job("f1", image=f's3://{INPUT}/ü, "q"\nf.tif')
    assert main(["report", "--csv", str(path)]) == 0
    table = read_csv(path)
    assert [(row["job_id"], row["ground_truth_version"], row["counts"]) for row in table] == [
        ("f1", "", ""),
        ("e0", "", ""),
        ("b2", "v1", "0"),
        ("a2", "v2", "1"),
        ("d1", "", ""),
        ("c1", "", ""),
        ("b1", "v1", "1"),
        ("a1", "v1", "0"),
        ("a1", "v2", "1"),
    ]
    assert table[0]["image"] == f's3://{INPUT}/ü, "q"\nf.tif'
    last = table[-1]
    assert (last["iou"], last["dice"], last["confluence"]) == ("0.6", "0.75", "0.5")
    assert [last[name] for name in ("true_positive", "false_positive", "false_negative")] == ["6", "2", "2"]
    assert (table[2]["evaluation_status"], table[2]["evaluation_error_code"]) == (
        "REJECTED",
        "GROUND_TRUTH_MISMATCH",
    )
    assert (table[4]["status"], table[4]["error_code"], table[4]["error"]) == (
        "REJECTED",
        "EMPTY_IMAGE",
        "d is <b>",
    )


def test_a_file_that_cannot_be_written_is_named(
    rows: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--csv", str(tmp_path)]) == 1
    assert f"{tmp_path} cannot be written: Is a directory" in capsys.readouterr().err


@pytest.mark.usefixtures("capsys")  # a closed output is replaced, and pytest's own must stay
def test_a_closed_pipe_does_not_stop_the_reports_files(
    rows: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> None:
        raise OutputClosed

    monkeypatch.setattr("cytomask.cli.report_files.say", closed)
    assert main(["report", "--csv", str(tmp_path / "scores.csv")]) == 141
    assert len(read_csv(tmp_path / "scores.csv")) == 8


def scored(*ious: Any) -> Any:
    return [
        Job(
            JobRow(job_id=str(iou), status="SUCCEEDED"),
            [EvaluationRow(job_id=str(iou), record="EVAL#v1", evaluation_status="SCORED", iou=iou)],
        )
        for iou in ious
    ]


@pytest.mark.parametrize(
    ("ious", "worst", "median", "best"),
    [
        ([], [], [], []),
        ([0.5], [0.5], [], []),
        ([0.5, 0.1], [0.1], [], [0.5]),
        ([0.5, 0.1, 0.3], [0.1], [0.3], [0.5]),
        ([0.5, 0.4, 0.1, 0.3, 0.2], [0.1], [0.3], [0.5]),
        ([0.5, 0.4, 0.1, 0.3, 0.2, 0.6, 0.7], [0.1, 0.2], [0.3, 0.4], [0.6, 0.7]),
        ([number / 100 for number in range(50)], [0.0, 0.01, 0.02], [0.23, 0.24, 0.25], [0.47, 0.48, 0.49]),
    ],
)
def test_the_worst_the_median_and_the_best_are_chosen(
    ious: Any, worst: list[Any], median: list[Any], best: list[Any]
) -> None:
    chosen = worst_median_best(scored(*ious), 3)
    found = {which: [job.iou for job in jobs] for which, jobs in chosen.items()}
    assert found == {"worst": worst, "median": median, "best": best}


def html_of(folder: Path, *options: Any) -> Any:
    path = folder / "report.html"
    assert main(["report", "--html", str(path), *options]) == 0
    return path.read_text(encoding="utf-8")


def pictures(html: Any) -> Any:
    """Return the pixels of the pictures by name, in order."""
    found = re.findall(r'<img alt="(\w+)" src="data:image/png;base64,([^"]+)">', html)
    return [(name, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))) for name, data in found]


def cells(seed: int = 0) -> Any:
    return phase_contrast_field(seed, HEIGHT, WIDTH).cells


def test_the_page_shows_image_mask_and_disagreement(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path
) -> None:
    deployed.segment(KEY, tiff())
    evaluate.upload(f"{KEY}.png", ground_truth())
    (image, mask, disagreement) = pictures(html_of(tmp_path))
    found = deployed.mask(f"{KEY}.mask.png") > 0
    expected = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    expected[found & cells()] = 200
    expected[found & ~cells()] = (0xE6, 0x9F, 0x00)
    expected[~found & cells()] = (0x00, 0x72, 0xB2)
    assert (image[0], mask[0], disagreement[0]) == ("image", "mask", "disagreement")
    low, high = np.percentile(page(), (0.5, 99.5))
    grey = np.clip((page() - low) / (high - low) * 255, 0, 255)
    np.testing.assert_allclose(image[1], grey, atol=0.51)
    np.testing.assert_array_equal(mask[1], found * np.uint8(255))
    np.testing.assert_array_equal(disagreement[1], expected)


def test_the_page_shows_what_was_scored_not_what_replaced_it(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path
) -> None:
    """The drawn counts equal the row's, although the key has another ground truth now."""
    deployed.s3.put_bucket_versioning(Bucket=GROUND_TRUTH, VersioningConfiguration={"Status": "Enabled"})
    deployed.segment(KEY, tiff())
    evaluate.upload(f"{KEY}.png", ground_truth())
    deployed.upload(f"{KEY}.png", png(np.zeros((HEIGHT, WIDTH), np.uint8)), bucket=GROUND_TRUTH)
    *_, (_, disagreement) = pictures(html_of(tmp_path))
    agreed = np.count_nonzero((disagreement == 200).all(axis=-1))
    assert agreed == evaluate.row()["true_positive"] > 0


def test_a_coco_ground_truth_is_shown_as_it_was_drawn(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path
) -> None:
    deployed.segment(KEY, tiff())
    coco = (
        '{"images": [{"id": 1, "file_name": "A172_Phase_C7_1.tif", "width": 80, "height": 64}], '
        '"annotations": [{"id": 1, "image_id": 1, "segmentation": [[0, 0, 80, 0, 80, 64, 0, 64]]}]}'
    )
    evaluate.upload("coco.json", coco.encode())
    evaluate.deliver_queued()
    *_, (_, disagreement) = pictures(html_of(tmp_path))
    found = deployed.mask(f"{KEY}.mask.png") > 0
    assert {tuple(colour) for colour in disagreement[~found]} == {FALSE_NEGATIVE}


def test_the_report_shows_a_stacks_first_page_and_says_so(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path
) -> None:
    deployed.upload(KEY, stack_of(3))
    truth = np.stack([cells(seed) for seed in range(3)]).astype(np.uint8) * 255
    deployed.upload(f"{KEY}.png", tiff(truth[1:], photometric="minisblack"), bucket=GROUND_TRUTH)
    deployed.handle(request(KEY, pages="1-2"))
    evaluate.deliver_queued()
    html = html_of(tmp_path)
    assert "this is page 1, the first of 2 that are scored together" in html
    (_, (_, mask), _) = pictures(html)
    (path,) = (key for key in deployed.outputs() if key.endswith(".p0001.mask.png"))
    np.testing.assert_array_equal(mask, deployed.mask(path))


def test_a_large_image_is_scaled_down_and_said_to_be(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "LONGEST_SIDE", 40)
    deployed.segment(KEY, tiff())
    evaluate.upload(f"{KEY}.png", ground_truth())
    html = html_of(tmp_path)
    assert "scaled down from 80 x 64 pixels" in html
    assert {pixels.shape[:2] for _, pixels in pictures(html)} == {(32, 40)}


def test_a_channel_is_shown_as_it_was_segmented(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path
) -> None:
    planes = np.stack([np.zeros_like(page()), page()])
    deployed.upload(KEY, tiff(planes, metadata={"axes": "CYX"}, photometric="minisblack", ome=True))
    deployed.upload(f"{KEY}.png", ground_truth(), bucket=GROUND_TRUTH)
    deployed.handle(request(KEY, channel=1))
    evaluate.deliver_queued()
    (image, *_) = pictures(html_of(tmp_path))
    assert image[1].max() == 255


@pytest.mark.parametrize(
    ("bucket", "key", "body", "said"),
    [
        (INPUT, KEY, None, f"s3://{INPUT}/{KEY} was deleted before it was read"),
        (INPUT, KEY, b"other", f"s3://{INPUT}/{KEY} was overwritten meanwhile"),
        (OUTPUT, f"{KEY}.mask.png", None, f"s3://{OUTPUT}/{KEY}.mask.png was deleted before it was read"),
        (OUTPUT, f"{KEY}.result.json", None, f"s3://{OUTPUT}/{KEY}.result.json was deleted, or a newer"),
        (
            GROUND_TRUTH,
            f"{KEY}.png",
            None,
            f"s3://{GROUND_TRUTH}/{KEY}.png is no longer there in the version",
        ),
        (
            GROUND_TRUTH,
            f"{KEY}.png",
            b"other",
            f"s3://{GROUND_TRUTH}/{KEY}.png is no longer there in the version that was scored",
        ),
    ],
)
def test_a_sentence_replaces_a_missing_picture(
    deployed: Any,
    evaluate: EvaluateFunction,
    tmp_path: Path,
    bucket: Any,
    key: Any,
    body: bytes | None,
    said: str,
) -> None:
    deployed.segment(KEY, tiff())
    evaluate.upload(f"{KEY}.png", ground_truth())
    if body is None:
        deployed.s3.delete_object(Bucket=bucket, Key=key)
    else:
        deployed.upload(key, body, bucket=bucket)
    html = html_of(tmp_path)
    assert f"not drawn: {said}" in html
    assert pictures(html) == []
    assert "IoU pooled" in html


def test_a_sentence_replaces_a_picture_that_s3_refuses(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path
) -> None:
    deployed.segment(KEY, tiff())
    evaluate.upload(f"{KEY}.png", ground_truth())
    deployed.wire.fail("GetObject", "AccessDenied", 403, key=KEY)
    html = html_of(tmp_path)
    assert "not drawn: GetObject was refused: injected" in html


def test_keys_groups_and_errors_are_text_not_markup(
    deployed: Any, evaluate: EvaluateFunction, tmp_path: Path
) -> None:
    nasty = "<script>alert('1')</script>\"&amp;ü.tif"
    deployed.upload(nasty, tiff())
    deployed.handle(request(nasty, group='</th><img src="http://x/">'))
    evaluate.upload(f"{nasty}.png", ground_truth())
    deployed.segment("<b>.tif", b"text")
    html = html_of(tmp_path)
    assert len(pictures(html)) == 3
    assert "<script" not in html
    assert "<b>" not in html
    assert re.findall(r'(?:src|href)="(?!data:image/png)', html) == []
    assert nasty in unescape(html)
    assert '</th><img src="http://x/">' in unescape(html)


def test_the_page_lists_failures_and_asks_nothing_of_the_network(rows: Any, tmp_path: Path) -> None:
    html = html_of(tmp_path)
    assert "REJECTED EMPTY_IMAGE" in html
    assert "d is &lt;b&gt;" in html
    assert "default-src 'none'; img-src data:" in html
    assert re.findall(r"https?://", html) == []


def test_a_page_without_scores_says_so(deployed: Any, tmp_path: Path) -> None:
    deployed.segment(KEY, tiff())
    assert "No mask has a score, so there is nothing to show." in html_of(tmp_path)


def test_the_newest_failures_are_listed_and_the_others_counted(
    rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "MOST_FAILURES", 1)
    html = html_of(tmp_path)
    assert "TIMED_OUT" in html.partition("<h2>Failures</h2>")[2]
    assert "2 older ones are not shown; the CSV has them all." in html
