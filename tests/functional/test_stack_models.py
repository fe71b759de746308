"""The stack's own models on moto: loaded, refused, and kept for plates that began with them."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from factories import INPUT, MODELS, TABLE, page, s3_event, tiff
from functions_on_moto import FailuresFunction, SegmentStack, Sessions
from own_models import THRESHOLD, make_model, make_other_architecture

from cytomask import served_model
from cytomask.acquisition import Acquisition
from cytomask.addresses import S3Object
from cytomask.cli.main import main
from cytomask.cli.stack import Stack
from cytomask.functions.segment import networks
from cytomask.model.predictor import WEIGHTS, read_manifest
from cytomask.model_store import ModelStore
from cytomask.requests import SegmentRequest
from cytomask.stack_models import Pins
from cytomask.table import Table

SHIPPED = read_manifest(WEIGHTS / "native", "native")
Restart = Callable[[str], None]
Lines = Callable[[str], list[dict[str, Any]]]
PLATE = "P1/P1_Phase_B02_1_00d0{hour}h00m.tif"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CACHE", tmp_path / "cache")


@pytest.fixture
def restart(stack: SegmentStack, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Restart:
    """Restart the functions, as after an update of the stack's parameter Model."""

    def start(model: str) -> None:
        monkeypatch.setenv("MODEL", model)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["segment"])
        segmenter, processor = stack.app.connect()
        monkeypatch.setattr(stack.app, "segmenter", segmenter)
        monkeypatch.setattr(stack.app, "processor", processor)
        for name, made in (("api", ("desk", "plate_desk")), ("failures", ("recorder",))):
            app = importlib.import_module(f"cytomask.functions.{name}.app")
            monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function[name])
            connected = app.connect()
            for each, part in zip(made, connected if len(made) > 1 else [connected], strict=True):
                monkeypatch.setattr(app, each, part)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["command"])

    return start


@pytest.fixture
def upload(stack: SegmentStack, tmp_path: Path) -> Callable[[str], str]:
    """Make a model and add it to the stack's bucket."""

    def add(name: str) -> str:
        sha256 = make_model(tmp_path / name, name)
        ModelStore(stack.s3, MODELS).add(tmp_path / name)
        return sha256

    return add


def keys_of(sha256: str) -> list[str]:
    return [f"models/{sha256}/native/{name}" for name in ("manifest.json", "swin_unet.onnx")]


def test_the_model_that_the_stack_names_makes_the_next_mask_and_is_named_by_it(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    before = stack.segment("before.tif", tiff())
    own = upload("own")
    restart(own)
    after = stack.segment("after.tif", tiff())
    assert (after["model"]["name"], after["model"]["sha256"]) == ("own", own)
    assert after["parameters"]["threshold"] == THRESHOLD
    assert 0 < after["confluence"] < before["confluence"]
    assert stack.job(after["job_id"])["model_sha256"] == own
    restart("baked-in")
    assert stack.segment("again.tif", tiff())["model"] == before["model"]


def test_the_container_starts_without_the_copies_of_the_manifests_that_the_layer_has(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(served_model, "MANIFESTS", tmp_path)  # .dockerignore leaves them out
    segmenter, _ = stack.app.connect()
    monkeypatch.setattr(stack.app, "segmenter", segmenter)
    for key in ("a.tif", PLATE.format(hour=0)):
        assert stack.segment(key, tiff())["model"]["name"] == SHIPPED.name


def test_the_mode_resize_keeps_the_containers_network(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    restart(upload("own"))
    stack.upload("a.tif", tiff())
    (result,) = stack.handle({"image": f"s3://{INPUT}/a.tif", "mode": "resize"})
    assert result["model"]["name"] == stack.predictor.manifests["resize"].name


def test_a_finished_image_is_segmented_again_only_on_request(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    before = stack.segment("a.tif", tiff())
    restart(upload("own"))
    assert stack.result("a.tif.result.json")["model"] == before["model"]
    (after,) = stack.handle(s3_event("a.tif"))  # what a backfill sends
    assert after["job_id"] != before["job_id"]
    assert stack.result("a.tif.result.json")["model"]["name"] == "own"


def remove(s3: Any, sha256: str, _: Path) -> str:
    s3.delete_object(Bucket=MODELS, Key=keys_of(sha256)[0])
    return sha256


def damage(s3: Any, sha256: str, _: Path) -> str:
    s3.put_object(Bucket=MODELS, Key=keys_of(sha256)[1], Body=b"not what it was")
    return sha256


def mislabel(s3: Any, sha256: str, folder: Path) -> str:
    """Store another model's files under this one's sha256."""
    make_model(folder / "other", "other")
    for key, name in zip(keys_of(sha256), ("manifest.json", "swin_unet.onnx"), strict=True):
        s3.put_object(Bucket=MODELS, Key=key, Body=(folder / "other" / name).read_bytes())
    return sha256


def scribble(s3: Any, sha256: str, _: Path) -> str:
    s3.put_object(Bucket=MODELS, Key=keys_of(sha256)[0], Body=b"{")
    return sha256


def reshape(s3: Any, _: str, folder: Path) -> str:
    sha256 = make_other_architecture(folder / "small", "small")
    ModelStore(s3, MODELS).add(folder / "small")
    return sha256


def retile(s3: Any, _: str, folder: Path) -> str:
    sha256 = make_model(folder / "tiles", "tiles", tile=448)
    ModelStore(s3, MODELS).add(folder / "tiles")
    return sha256


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (remove, "manifest.json is not there"),
        (damage, "it is damaged or was replaced"),
        (mislabel, "is the manifest of"),
        (scribble, "is not a manifest"),
        (reshape, "has another architecture"),
        (retile, "are from another version of cytomask: their normalisation, tile and overlap"),
    ],
)
def test_a_model_that_cannot_be_used_is_named_and_the_containers_segments(
    harm: Callable[[Any, str, Path], str],
    why: str,
    stack: SegmentStack,
    restart: Restart,
    upload: Callable[[str], str],
    log_lines: Lines,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    named = harm(stack.s3, upload("own"), tmp_path)
    restart(named)
    result = stack.segment("a.tif", tiff())
    assert result["model"]["sha256"] == stack.predictor.manifests["native"].sha256
    (line,) = log_lines("model_refused")
    assert (line["level"], line["model"]) == ("ERROR", named)
    assert why in line["error"]
    assert "cytomask promote" in line["what_to_do"]
    metrics = [json.loads(each) for each in capsys.readouterr().out.splitlines() if "_aws" in each]
    assert [each["ModelsRefused"] for each in metrics if "ModelsRefused" in each] == [[1.0]]


def test_a_model_that_came_back_is_loaded_within_minutes(
    stack: SegmentStack,
    restart: Restart,
    upload: Callable[[str], str],
    log_lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = upload("own")
    content = stack.s3.get_object(Bucket=MODELS, Key=keys_of(own)[1])["Body"].read()
    damage(stack.s3, own, Path())
    restart(own)
    stack.s3.put_object(Bucket=MODELS, Key=keys_of(own)[1], Body=content)
    assert stack.segment("a.tif", tiff(page(0)))["model"]["name"] != "own"
    monkeypatch.setattr(networks_of(stack), "_retry_at", 0.0)
    assert stack.segment("b.tif", tiff(page(1)))["model"]["name"] == "own"
    assert len(log_lines("model_refused")) == 1


def networks_of(stack: SegmentStack) -> Any:
    return stack.app.segmenter._networks


def test_a_temporary_s3_fault_fails_the_start_and_no_other_model_is_used(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    own = upload("own")
    stack.wire.fail("GetObject", "SlowDown", 503)
    with pytest.raises(Exception, match="SlowDown"):
        restart(own)


def test_a_plate_that_began_with_one_model_is_finished_with_it(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    first = stack.segment(PLATE.format(hour=0), tiff())
    own = upload("own")
    restart(own)
    assert stack.segment(PLATE.format(hour=4), tiff())["model"] == first["model"]
    assert stack.segment("P2/P2_Phase_B02_1_00d00h00m.tif", tiff())["model"]["name"] == "own"
    restart("baked-in")
    assert stack.segment("P2/P2_Phase_B02_1_00d04h00m.tif", tiff())["model"]["name"] == "own"
    assert stack.segment(PLATE.format(hour=8), tiff())["model"] == first["model"]


def test_few_networks_are_kept_in_memory_and_on_disk(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    names = ["one", "two", "three"]
    shas = {name: upload(name) for name in names}
    pins = Pins(Table(boto3.client("dynamodb"), TABLE))
    for name in names[1:]:
        pins.pin(name, ModelStore(stack.s3, MODELS).describe(shas[name]).served)
    restart(shas["one"])
    for hour, plate in enumerate(["two", "three", "two", "none", "three"]):
        key = f"{plate}/{plate}_Phase_B02_1_00d0{hour}h00m.tif"
        wanted = plate if plate in names else "one"
        assert stack.segment(key, tiff())["model"]["name"] == wanted
        lying = {folder.name for folder in networks.CACHE.iterdir()}
        assert len(lying) == 2
        assert {shas["one"], shas[wanted]} <= lying


def test_a_page_whose_plates_model_is_gone_fails_without_another_models_mask(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str], failures: FailuresFunction
) -> None:
    own = upload("own")
    restart(own)
    done = stack.segment(PLATE.format(hour=0), tiff())
    mask = stack.output(f"{PLATE.format(hour=0)}.mask.png")
    restart("baked-in")
    for key in keys_of(own):
        stack.s3.delete_object(Bucket=MODELS, Key=key)

    later = PLATE.format(hour=4)
    stack.upload(later, tiff())
    assert stack.deliver(s3_event(later)) == [0]  # it is delivered again
    assert failures.deliver(s3_event(later)) == []
    (failed,) = [row for row in stack.rows() if row["status"] == "FAILED"]
    assert failed["image"].endswith(later)
    assert f"the model {own[:12]}, which cannot be used now" in failed["error"]
    assert "cytomask plate NAME --pin" in failed["error"]
    assert f"{later}.mask.png" not in stack.outputs()
    assert stack.output(f"{PLATE.format(hour=0)}.mask.png") == mask

    upload("own")
    stack.table.put_item(Item=stack.job(failed["job_id"]) | {"status": "QUEUED"})  # as a redrive does
    assert stack.deliver(s3_event(later)) == []
    assert stack.job(failed["job_id"])["status"] == "SUCCEEDED"
    assert stack.result(f"{later}.result.json")["model"] == done["model"]


def test_a_job_requested_over_http_has_the_id_of_its_plates_model(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str], http: Any
) -> None:
    stack.segment(PLATE.format(hour=0), tiff())
    own = upload("own")
    restart(own)
    for key, name in ((PLATE.format(hour=4), None), ("alone.tif", "own")):
        stack.upload(key, tiff())
        queued = http.post("/jobs", {"image": f"s3://{INPUT}/{key}"}).json
        (result,) = stack.handle(s3_event(key))
        assert result["job_id"] == queued["job_id"]
        assert (result["model"]["name"] == "own") == (name == "own")


def test_a_plate_named_by_the_request_is_pinned_too(
    stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    own = upload("own")
    restart(own)
    stack.upload("a.tif", tiff())
    stack.handle({"image": f"s3://{INPUT}/a.tif", "plate": "Q", "well": "B2"})
    pinned = Pins(Table(boto3.client("dynamodb"), TABLE)).read("Q")
    assert pinned is not None
    assert (pinned.sha256, pinned.threshold, pinned.name) == (own, THRESHOLD, "own")


def test_a_command_pins_shows_and_unpins_a_plate(
    connected: Stack,
    stack: SegmentStack,
    upload: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: with_models(connected)))
    stack.segment(PLATE.format(hour=0), tiff())
    own = upload("own")
    for change in (["--pin"], ["--pin", "own"], ["--unpin"]):
        assert main(["plate", "P11", *change]) == 1
        assert "has no plate P11; `cytomask plates` lists them" in capsys.readouterr().err
    assert main(["plate", "P1", "--pin"]) == 0
    assert "is pinned to swin-unet-" in capsys.readouterr().out
    assert main(["plate", "P1", "--pin", "own"]) == 0
    assert f"-> own ({own[:12]})" in capsys.readouterr().out
    assert stack.segment(PLATE.format(hour=4), tiff())["model"]["name"] == "own"
    capsys.readouterr()
    assert main(["plate", "P1"]) == 0
    assert f"the masks are by 2 models (own, {SHIPPED.name})" in capsys.readouterr().err
    assert main(["plate", "P1", "--pin", "nothing"]) == 2
    assert "the stack has no model nothing" in capsys.readouterr().err
    assert main(["plate", "P1", "--unpin"]) == 0
    assert stack.segment(PLATE.format(hour=8), tiff())["model"]["name"] != "own"
    assert main(["plate", "P1", "--pin", own[:10]]) == 0


def with_models(stack: Stack, **parameters: str) -> Stack:
    return replace(stack, models_bucket=MODELS, parameters=parameters)


def test_a_commands_job_id_uses_the_model_that_will_segment(
    connected: Stack, stack: SegmentStack, restart: Restart, upload: Callable[[str], str]
) -> None:
    first = stack.segment(PLATE.format(hour=0), tiff())
    own = upload("own")
    restart(own)
    models = with_models(connected, Model=own).models()
    alone = SegmentRequest(S3Object(INPUT, "alone.tif"))
    of_plate = SegmentRequest(S3Object(INPUT, "b.tif"), place=Acquisition(plate="P1", well="C03"))
    assert models.of(alone)["native"].sha256 == own
    assert models.of(of_plate)["native"].sha256 == first["model"]["sha256"]
    assert (
        with_models(connected, Model="0" * 64).models().of(alone)["native"].sha256 == first["model"]["sha256"]
    )
