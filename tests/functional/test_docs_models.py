"""Run the commands of docs/models.md in order on one emulated stack."""

import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import tifffile
from running_stack import scores, segment, until

from cytomask.cli.main import main
from cytomask.images import encode_mask
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.infra.template import TEMPLATE
from cytomask.model.predictor import WEIGHTS, read_manifest
from cytomask.samples.fields import phase_contrast_field

PAGE = TEMPLATE.parent / "docs" / "models.md"
SHIPPED = read_manifest(WEIGHTS / "native", "native").name
PLATE = "VID1523_Phase_B02_1_00d0{hour}h00m.tif"
ON_A_STACK = {"upload", "report", "promote", "plate", "backfill"}
IMAGES = 3
SECONDS = 240


def lines() -> list[str]:
    """Return the page's commands in order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    typed = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in typed if line.startswith("cytomask ")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedStack]:
    with emulated_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.mark.slow
def test_every_command_of_the_page_works_in_its_order(
    running: EmulatedStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("CYTOMASK_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    draw_plate(tmp_path)
    segmented = partial(segment, running, seed=7, seconds=SECONDS)
    before = after = None
    for line in lines():
        words = shlex.split(line)[1:]
        assert main(typed(words, running, tmp_path)) == 0, f"{line}\n{capsys.readouterr().err}"
        if words[0] == "upload":
            until(lambda: scores(running) == IMAGES, SECONDS)
            before = segmented("before.tif")
        if words[:2] == ["promote", "my-microscope"]:
            after = segmented("after.tif")
            follower = segmented(PLATE.format(hour=9))
    assert before and after
    own = read_manifest(tmp_path / "CYTOMASK_MODELS" / "my-microscope", "native")
    assert before["model"]["name"] == SHIPPED
    assert after["model"] == before["model"] | {"name": "my-microscope", "sha256": own.sha256}
    assert follower["model"] == before["model"]  # its plate began with the shipped weights
    assert segmented("last.tif")["model"]["name"] == "my-microscope"


def typed(words: list[str], stack: EmulatedStack, folder: Path) -> list[str]:
    """Adapt a command: the names of this stack, few training steps, and no question."""
    own = folder / "CYTOMASK_MODELS" / "my-microscope" / "manifest.json"
    names = {
        "s3://INPUT-BUCKET": f"s3://{stack.outputs['InputBucketName']}",
        "9f3c62d1": json.loads(own.read_text())["sha256"][:8] if own.exists() else "",
        "model/weights": str(WEIGHTS),
    }
    words = [SHIPPED if word.startswith("swin-unet-") else names.get(word, word) for word in words]
    if words[0] == "promote":
        words += ["--yes"]
    if words[0] == "finetune":
        words += ["--steps", "2"]
    if words[0] in ON_A_STACK or "--from-stack" in words:
        words += ["--endpoint-url", stack.endpoint]
    return words


def draw_plate(folder: Path) -> None:
    for name in ("plate", "masks"):
        (folder / name).mkdir()
    for hour in range(IMAGES):
        field = phase_contrast_field(hour, 224, 240)
        name = PLATE.format(hour=hour)
        tifffile.imwrite(folder / "plate" / name, field.pixels)
        (folder / "masks" / name).with_suffix(".png").write_bytes(encode_mask(field.cells))
