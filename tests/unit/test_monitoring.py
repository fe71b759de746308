"""A run's reports can be read back, and no failing or hanging tracker stops or delays the run."""

import csv
import json
import logging
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cytomask.training import monitoring
from cytomask.training.monitoring import BLUE, VERMILION, Monitor, write_curves, write_samples

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
COLUMNS = ("epoch", "step", "seconds", "learning_rate", "loss", "validation_loss", "validation_iou")
CONFIG = {"epochs": 3, "augmentation": {"zoom": (0.75, 1.3)}, "train": {"ours/train": 1.0}}

RAISES = "class Task:\n    def init(**_): raise RuntimeError('no such project')\n    set_offline = print\n"
BLOCKS = "import time\nclass Task:\n    def init(**_): time.sleep(3600)\n    set_offline = print\n"


def events(out: Path) -> EventAccumulator:
    return EventAccumulator(str(out / "tensorboard"), {"images": 0, "scalars": 0}).Reload()


def steps_of(out: Path, name: str) -> dict[int, float]:
    return {event.step: event.value for event in events(out).Scalars(name)}


def use_fake_clearml(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package `clearml` that ClearML's process finds before the real one."""
    (folder / "clearml").mkdir()
    (folder / "clearml" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))


def run(script: str, seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in its own process."""
    return subprocess.run(
        [sys.executable, "-c", f"import pathlib, sys, time\nfrom training import monitoring\n{script}"],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


def monitor_in(out: Path) -> str:
    return f"monitoring.Monitor(pathlib.Path({str(out)!r}), 'trial', {CONFIG!r}, clearml=True)"


def wait_until_ended(monitor: Monitor) -> None:
    """Wait until ClearML's process has ended, so that the next report notices."""
    clearml = monitor._trackers["ClearML"]
    assert isinstance(clearml, monitoring.ClearML)
    clearml._process.wait(60)


def test_tensorboard_shows_every_number_and_image_at_its_step(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[1, 2] = 255, 128, 0
    Image.fromarray(picture).save(tmp_path / "samples.png")
    with Monitor(tmp_path, "trial", CONFIG, clearml=False) as monitor:
        monitor.scalars({"loss": 0.75, "validation/iou": 0.5}, 10)
        monitor.scalars({"loss": 0.5, "validation/iou": 0.625}, 20)
        monitor.image("array", picture, 20)
        monitor.image("file", tmp_path / "samples.png", 20)
    assert steps_of(tmp_path, "loss") == {10: 0.75, 20: 0.5}
    assert steps_of(tmp_path, "validation/iou") == {10: 0.5, 20: 0.625}
    for name in ("array", "file"):
        [image] = events(tmp_path).Images(name)
        (tmp_path / "back.png").write_bytes(image.encoded_image_string)
        assert image.step == 20
        assert np.array_equal(np.asarray(Image.open(tmp_path / "back.png")), picture)
    [text] = events(tmp_path).Tensors("config/text_summary")
    assert '"epochs": 3' in text.tensor_proto.string_val[0].decode()


def test_a_resumed_run_hides_what_the_broken_off_one_showed_beyond_its_checkpoint(tmp_path: Path) -> None:
    with Monitor(tmp_path, "trial", CONFIG, clearml=False) as first:
        for step in (1, 2, 3, 4):
            first.scalars({"loss": 1.0}, step)
    with Monitor(tmp_path, "trial", CONFIG, clearml=False, purge_step=3) as resumed:
        resumed.scalars({"loss": 0.25}, 3)
    assert steps_of(tmp_path, "loss") == {1: 1.0, 2: 1.0, 3: 0.25}


def test_a_folder_that_cannot_be_written_turns_tensorboard_off_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with Monitor(tmp_path, "trial", CONFIG, clearml=False) as monitor:
        monitor.scalars({"loss": 1.0}, 1)
        monitor.scalars({"loss": 0.5}, 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "TensorBoard is off" in caplog.text


@pytest.mark.slow
def test_clearml_is_never_imported_into_a_run_and_not_started_unless_asked_for(tmp_path: Path) -> None:
    script = (
        f"with {monitor_in(tmp_path).replace('clearml=True', 'clearml=False')} as monitor:\n"
        "    monitor.scalars({'loss': 1.0}, 1)\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'clearml']\n"
    )
    outcome = run(script, 120)
    assert outcome.returncode == 0, outcome.stderr
    assert not (tmp_path / "clearml.log").exists()


def test_a_failing_tracker_is_logged_once_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_fake_clearml(tmp_path, RAISES, monkeypatch)
    with Monitor(tmp_path, "trial", CONFIG, clearml=True) as monitor:
        wait_until_ended(monitor)
        for step in (1, 2, 3):
            monitor.scalars({"loss": 1 / step}, step)
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert "ClearML is off, the run goes on" in warning.message
    assert "RuntimeError: no such project" in warning.message
    assert f"see {tmp_path / 'clearml.log'}" in warning.message
    assert list(steps_of(tmp_path, "loss")) == [1, 2, 3]


def test_a_tracker_that_gives_no_answer_is_ended_by_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_fake_clearml(tmp_path, BLOCKS, monkeypatch)
    monkeypatch.setattr(monitoring, "CALL_SECONDS", 0.5)
    with Monitor(tmp_path, "trial", CONFIG, clearml=True) as monitor:
        wait_until_ended(monitor)
        monitor.scalars({"loss": 0.5}, 1)
    [warning] = caplog.records
    assert "no answer within 0.5 s" in warning.message
    assert steps_of(tmp_path, "loss") == {1: 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["monitor.close()", "raise SystemExit(0)"])
def test_a_blocked_tracker_does_not_delay_the_end_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    use_fake_clearml(tmp_path, BLOCKS, monkeypatch)
    script = (
        "monitoring.CALL_SECONDS, monitoring.CLOSE_SECONDS = 30, 0.5\n"
        f"monitor = {monitor_in(tmp_path)}\n"
        "print(time.time(), flush=True)\n"
        "for step in range(3000): monitor.scalars({'loss': 1.0, 'more': 2.0}, step)\n"
        f"{ending}\n"
    )
    outcome = run(script, 120)
    assert time.time() - float(outcome.stdout) < 15  # 3,000 reports, more than the pipe holds, and the end
    assert outcome.returncode == 0, outcome.stderr
    assert ("left to finish" in outcome.stderr) == (ending == "monitor.close()")
    assert "Traceback" not in outcome.stderr


@pytest.mark.slow
def test_a_tracker_too_far_behind_is_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_clearml(tmp_path, BLOCKS, monkeypatch)
    script = (
        "monitoring.QUEUED = 100\n"
        f"with {monitor_in(tmp_path)} as monitor:\n"
        "    for step in range(5000): monitor.scalars({'loss': 1.0}, step)\n"
    )
    outcome = run(script, 120)
    assert outcome.returncode == 0
    assert outcome.stderr.count("ClearML is off") == 1
    assert "it is 100 reports behind" in outcome.stderr


@pytest.mark.slow
def test_the_real_clearml_writes_an_offline_session_without_a_server(tmp_path: Path) -> None:
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    script = (
        "monitoring.CALL_SECONDS = monitoring.CLOSE_SECONDS = 300\n"
        f"with {monitor_in(out)} as monitor:\n"
        "    monitor.scalars({'loss': 0.5, 'validation/iou': monitoring.np.float32(0.75)}, 7)\n"
        "    monitor.image('samples', monitoring.np.zeros((8, 9, 3), 'uint8'), 7)\n"
        "assert 'clearml' not in sys.modules\n"
    )
    outcome = run(script, 640, HOME=str(home), MPLCONFIGDIR=str(tmp_path))
    assert outcome.returncode == 0, outcome.stderr
    assert "ClearML is off" not in outcome.stderr, (out / "clearml.log").read_text()
    [session] = home.rglob("*.zip")
    with zipfile.ZipFile(session) as archive:
        task = json.loads(archive.read("task.json"))
        reported = [json.loads(line) for line in archive.read("metrics.jsonl").splitlines()]
    assert task["name"] == "trial"
    assert task["hyperparams"]["General"]["augmentation/zoom"]["value"] == "[0.75, 1.3]"
    flat = [event for batch in reported for event in (batch if isinstance(batch, list) else [batch])]
    numbers = {
        (event["metric"], event["variant"]): (event["iter"], event["value"])
        for event in flat
        if event["type"] == "training_stats_scalar"
    }
    assert numbers == {("loss", "loss"): (7, 0.5), ("validation", "iou"): (7, 0.75)}
    assert [event["metric"] for event in flat if event["type"] == "training_debug_image"] == ["samples"]


def write_metrics(path: Path, rows: Sequence[tuple[object, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


@pytest.mark.parametrize(
    ("rows", "height"),
    [
        ([], 550),
        ([(1, 40, 90, 0.001, 0.9, "", "")], 550),
        ([(1, 40, 90, 0.001, 0.9, "", ""), (2, 80, 180, 0.0, "nan", 0.8, 0.5)], 880),
    ],
    ids=["no epoch yet", "not validated yet", "a loss that is not a number"],
)
def test_curves_are_drawn_however_far_the_run_has_come(
    tmp_path: Path, rows: list[tuple[object, ...]], height: int
) -> None:
    target = tmp_path / "curves.png"
    write_curves(write_metrics(tmp_path / "metrics.csv", rows), target)
    with Image.open(target) as image:
        assert image.format == "PNG"
        assert image.size == (880, height)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


def test_the_curves_show_training_and_validation_in_their_colours(tmp_path: Path) -> None:
    rows = [(epoch, epoch * 10, epoch, 0.001, 1 / epoch, 1.5 / epoch, 1 - 1 / epoch) for epoch in range(1, 9)]
    target = tmp_path / "curves.png"
    write_curves(write_metrics(tmp_path / "metrics.csv", rows), target)
    assert pixels_of(target, BLUE) > 200
    assert pixels_of(target, VERMILION) > 400  # in two panels


def test_samples_colour_what_was_missed_and_what_was_too_much(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    truth, mask = np.zeros((40, 60), np.bool_), np.zeros((40, 60), np.bool_)
    truth[5:20, 5:35] = True
    target = tmp_path / "samples.png"
    write_samples(
        [("exact", pixels, truth, truth), ("tall", pixels[:, :20], mask[:, :20], mask[:, :20])], target
    )
    without = pixels_of(target, BLUE), pixels_of(target, VERMILION)
    mask[15:35, 5:35] = True
    write_samples(
        [("wrong", pixels, truth, mask), ("tall", pixels[:, :20], mask[:, :20], mask[:, :20])], target
    )
    scale = (monitoring.PANEL_INCHES * 110 / 60) ** 2  # shown for each pixel
    missed, too_much = pixels_of(target, BLUE) - without[0], pixels_of(target, VERMILION) - without[1]
    assert missed == pytest.approx(300 * scale, rel=0.15)
    assert too_much == pytest.approx(450 * scale, rel=0.15)


def pixels_of(path: Path, colour: str) -> int:
    """Count the pixels of a PNG that have exactly this colour."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int(np.count_nonzero((np.asarray(Image.open(path).convert("RGB")) == wanted).all(axis=2)))
