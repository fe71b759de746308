"""`cytomask promote`: upload, compare and switch, on moto and on the emulated stack."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from factories import MODELS, ground_truth, page, tiff
from functions_on_moto import EvaluateFunction, SegmentStack
from own_models import make_model, make_other_architecture
from running_stack import scores, segment, until

from cytomask.cli.main import main
from cytomask.cli.stack import Stack
from cytomask.images import encode_mask
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.model.predictor import WEIGHTS, page_hash, read_manifest
from cytomask.samples.fields import phase_contrast_field

SHIPPED = read_manifest(WEIGHTS / "native", "native").name
SECONDS = 120


@pytest.fixture
def with_bucket(connected: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """Add the models bucket to the stack on moto."""
    found = replace(connected, models_bucket=MODELS)
    monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))
    return found


def uploaded(stack: SegmentStack) -> list[str]:
    return [each["Key"] for each in stack.s3.list_objects_v2(Bucket=MODELS).get("Contents", [])]


def test_a_model_is_uploaded_once_and_compared_on_the_stacks_own_truths(
    with_bucket: Stack,
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stack.segment("a.tif", tiff())
    evaluate.upload("a.png", ground_truth())
    evaluate.deliver_queued()
    stack.segment("unscored.tif", tiff())
    sha256 = make_model(tmp_path / "mine", "mine")
    assert main(["promote", str(tmp_path / "mine"), "--no-switch"]) == 0
    printed = capsys.readouterr()
    (row,) = [line.split() for line in printed.out.splitlines() if line.endswith("/a.tif")]
    present, new = float(row[0]), float(row[1])
    (score,) = [each for each in stack.rows("EVAL") if each["evaluation_status"] == "SCORED"]
    assert present == pytest.approx(float(score["iou"]), abs=0.0006)
    assert 0 < new < present  # its threshold is too high
    assert f"mean IoU of 1 image: {row[0]} -> {row[1]}" in printed.out
    assert "the new model scores lower" in printed.err
    assert "unscored" not in printed.out
    assert uploaded(stack) == [
        f"models/{sha256}/native/{name}" for name in ("manifest.json", "swin_unet.onnx")
    ]
    assert main(["promote", str(tmp_path / "mine"), "--no-switch"]) == 0
    assert "uploading" not in capsys.readouterr().out


def test_images_that_taught_a_model_are_marked_and_have_no_part_in_the_judgement(
    with_bucket: Stack,
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_model(tmp_path / "mine", "mine", learned_pages=[page_hash(page())])
    stack.segment("a.tif", tiff())
    evaluate.upload("a.png", ground_truth())
    evaluate.deliver_queued()
    promote = ["promote", str(tmp_path / "mine"), "--no-switch"]
    assert main(promote) == 0
    assert "a model learned from each of these images" in capsys.readouterr().err
    stack.segment("b.tif", tiff(page(1)))
    evaluate.upload("b.png", ground_truth())
    evaluate.deliver_queued()
    assert main(promote) == 0
    printed = capsys.readouterr()
    rows = {line.split("/")[-1]: line.split() for line in printed.out.splitlines() if line.endswith(".tif")}
    assert [len(rows["a.tif"]), len(rows["b.tif"])] == [5, 4]
    assert rows["a.tif"][3] == "new"
    present, new = rows["b.tif"][:2]
    assert f"mean IoU of 1 image that neither model learned from: {present} -> {new}" in printed.out


def damaged_copy(stack: SegmentStack, folder: Path) -> str:
    """Make a model, upload it, and damage its network in the bucket; return the network's key."""
    sha256 = make_model(folder, folder.name)
    assert main(["promote", str(folder), "--no-switch"]) == 0
    key = f"models/{sha256}/native/swin_unet.onnx"
    stack.s3.put_object(Bucket=MODELS, Key=key, Body=b"damaged")
    return key


def test_a_damaged_copy_in_the_bucket_is_replaced(
    with_bucket: Stack, stack: SegmentStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = damaged_copy(stack, tmp_path / "mine")
    capsys.readouterr()
    assert main(["promote", str(tmp_path / "mine"), "--no-switch"]) == 0
    printed = capsys.readouterr()
    assert "uploading" in printed.out
    assert "no image of the stack has a ground truth" in printed.err
    content = stack.s3.get_object(Bucket=MODELS, Key=key)["Body"].read()
    assert content == (tmp_path / "mine" / "swin_unet.onnx").read_bytes()


def test_a_damaged_copy_is_replaced_by_name_if_this_computer_has_the_model(
    with_bucket: Stack,
    stack: SegmentStack,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = damaged_copy(stack, tmp_path / "mine")
    capsys.readouterr()
    assert main(["promote", "mine", "--no-switch"]) == 2
    assert "it is damaged or was replaced; `cytomask promote FOLDER`" in capsys.readouterr().err
    monkeypatch.setenv("CYTOMASK_MODELS", str(tmp_path))
    assert main(["promote", "mine", "--no-switch"]) == 0
    assert "this computer's copy replaces it" in capsys.readouterr().err
    content = stack.s3.get_object(Bucket=MODELS, Key=key)["Body"].read()
    assert content == (tmp_path / "mine" / "swin_unet.onnx").read_bytes()


def test_too_few_digits_of_a_sha256_are_refused(
    with_bucket: Stack, stack: SegmentStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = make_model(tmp_path / "mine", "mine")
    assert main(["promote", str(tmp_path / "mine"), "--no-switch"]) == 0
    assert main(["promote", sha256[:6], "--no-switch"]) == 2
    assert f"{sha256[:6]} is too short for a sha256: give 8 digits or more" in capsys.readouterr().err
    assert main(["promote", sha256[:8], "--no-switch"]) == 0


def test_the_shipped_weights_can_be_kept_in_the_bucket_for_plates_that_need_them(
    with_bucket: Stack, stack: SegmentStack
) -> None:
    assert main(["promote", str(WEIGHTS), "--no-switch"]) == 0
    assert len(uploaded(stack)) == 2


def other_architecture(folder: Path) -> str:
    make_other_architecture(folder / "model", "small")
    return str(folder / "model")


def other_bytes(folder: Path) -> str:
    make_model(folder / "model", "mine")
    (folder / "model" / "swin_unet.onnx").write_bytes(b"something else")
    return str(folder / "model")


def other_mode(folder: Path) -> str:
    make_model(folder / "model", "mine", mode="resize")
    return str(folder / "model")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (other_architecture, "has another architecture"),
        (other_bytes, "but its manifest says"),
        (other_mode, "describes a network for resize"),
        (str, "has no weights for the mode native"),
        (lambda _: "nobody", "nobody is neither a folder nor the name"),
    ],
)
def test_an_unservable_model_is_refused_before_any_upload(
    make: Callable[[Path], str],
    why: str,
    with_bucket: Stack,
    stack: SegmentStack,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["promote", make(tmp_path), "--yes"]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert "cannot be promoted" in said
    assert uploaded(stack) == []


def test_a_stack_of_an_earlier_release_is_told_apart(
    connected: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", "baked-in"]) == 2
    assert "has no models bucket; deploy this release first" in capsys.readouterr().err


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedStack]:
    with emulated_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.mark.slow
def test_a_promoted_model_makes_the_next_mask_and_plates_keep_theirs(
    running: EmulatedStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test covers all steps, because starting a stack takes seconds."""

    def command(*words: str) -> str:
        assert main([*words, "--endpoint-url", running.endpoint]) == 0
        return capsys.readouterr().out

    segmented = partial(segment, running, seed=3, seconds=SECONDS)
    segmented("a.tif")
    truth = encode_mask(phase_contrast_field(3, 64, 80).cells)
    running.client("s3").put_object(Bucket=running.outputs["GroundTruthBucketName"], Key="a.png", Body=truth)
    until(lambda: scores(running), SECONDS)
    assert segmented("P1/P1_Phase_B02_1_00d00h00m.tif")["model"]["name"] == SHIPPED

    sha256 = make_model(tmp_path / "mine", "mine")
    unasked = ["promote", str(tmp_path / "mine"), "--endpoint-url", running.endpoint]
    assert main(unasked) == 1  # tests have no terminal
    assert "nothing was changed: there is no terminal to ask on; --yes" in capsys.readouterr().err
    assert segmented("unchanged.tif")["model"]["name"] == SHIPPED
    printed = command("promote", str(tmp_path / "mine"), "--yes")
    assert "the update sets the parameter Model" in printed
    assert "mean IoU of 1 image" in printed
    assert f"Model: baked-in -> {sha256}" in printed
    assert "modify SegmentFunction" in printed
    assert f"plates that keep the model they began with: P1 ({SHIPPED})" in printed

    model = segmented("b.tif")["model"]
    assert (model["name"], model["sha256"]) == ("mine", sha256)
    assert segmented("P1/P1_Phase_B02_1_00d04h00m.tif")["model"]["name"] == SHIPPED
    assert segmented("P2/P2_Phase_B02_1_00d00h00m.tif")["model"]["name"] == "mine"
    left = command("backfill", f"s3://{running.outputs['InputBucketName']}", "--dry-run")
    assert left.startswith("2 images")  # a.tif and unchanged.tif

    printed = command("promote", "baked-in", "--yes")
    assert f"Model: {sha256} -> baked-in" in printed
    assert segmented("c.tif")["model"]["name"] == SHIPPED
    assert segmented("P2/P2_Phase_B02_1_00d04h00m.tif")["model"]["name"] == "mine"

    command("promote", sha256[:12], "--yes")
    assert segmented("d.tif")["model"]["name"] == "mine"
    assert "already segments with it" in command("promote", "mine", "--yes")
