"""Show a training run: TensorBoard and ClearML while it runs, curves and samples as PNG.

No tracker can stop or hang a run: the first fault of a tracker is logged, and the run goes on without it.
"""

import base64
import csv
import io
import json
import logging
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from cytomask import metrics
from cytomask.model.preprocess import Pixels

RGB = NDArray[np.uint8]
Panel = tuple[str, Pixels, metrics.Mask, metrics.Mask]

FLUSH_SECONDS = 10
CALL_SECONDS = 60  # for one call into ClearML; the first takes about ten on a slow disk or network
CLOSE_SECONDS = 5
LAST = b"null\n"
QUEUED = 10_000  # reports of about 100 bytes: minutes of a fast GPU

# From Okabe and Ito's palette: colour-blind people can tell them apart, from grey too.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"
PANEL_INCHES = 3.2
PERCENTILES = (0.5, 99.5)  # of the pixels; shown as black and white

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """One place to report to. Any exception turns it off; the user reads the exception's text."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Report numbers by name."""

    def image(self, name: str, pixels: RGB, step: int) -> None:
        """Report an (H, W, 3) uint8 image."""

    def close(self) -> None:
        """End the reports."""


class Monitor:
    """Report a run to TensorBoard (`out`/tensorboard) and, if asked, to ClearML.

    Args:
        out: the run's folder.
        name: of the run.
        config: the experiment's values, of JSON's types.
        clearml: whether to report to ClearML; without a server it writes an offline session.
        purge_step: the first step of a resumed run; reports of an earlier run from there on are hidden.
    """

    def __init__(
        self, out: Path, name: str, config: Mapping[str, Any], clearml: bool, purge_step: int | None = None
    ) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._begin("TensorBoard", lambda: TensorBoard(out / "tensorboard", config, purge_step))
        if clearml:
            self._begin("ClearML", lambda: ClearML(out / "clearml.log", name, config))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers by name, such as `loss` or `validation/iou`, at a step."""
        self._each(lambda tracker: tracker.scalars(values, step))

    def image(self, name: str, image: Path | RGB, step: int) -> None:
        """Show an image, a file or (H, W, 3) uint8, at a step; raise OSError if the file cannot be read."""
        pixels = np.asarray(Image.open(image).convert("RGB")) if isinstance(image, Path) else image
        self._each(lambda tracker: tracker.image(name, pixels, step))

    def close(self) -> None:
        """End the reports within about `CLOSE_SECONDS`; a second call does nothing."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, name: str, begin: Callable[[], Tracker]) -> None:
        try:
            self._trackers[name] = begin()
        except Exception as error:
            _warn(name, error)

    def _each(self, report: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                report(tracker)
            except Exception as error:
                del self._trackers[name]
                _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    logger.warning("%s is off, the run goes on without it: %s: %s", name, type(error).__name__, error)


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], purge_step: int | None) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=FLUSH_SECONDS)
        text = json.dumps(config, indent=4, default=str)
        self._writer.add_text("config", f"```\n{text}\n```", purge_step or 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.scalars`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: RGB, step: int) -> None:
        """As `Tracker.image`."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """As `Tracker.close`."""
        self._writer.close()


class TrackerStopped(Exception):
    """ClearML's process has ended or does not keep up."""


class ClearML:
    """ClearML in a process of its own (`clearml_process` says why), fed by a thread from a bounded queue.

    Its output goes to `log`. Only `close` waits, for at most `CLOSE_SECONDS`. After that the process finishes
    by itself, or its alarm ends it.
    """

    def __init__(self, log: Path, name: str, config: Mapping[str, Any]) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("clearml_process.py"))],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                bufsize=0,  # a buffer's lock would still be held by a blocked write at exit
                start_new_session=True,  # Ctrl-C must reach the run alone
            )
        self._reports: queue.Queue[bytes] = queue.Queue(QUEUED)
        self._put_json({"name": name, "config": config, "argv": sys.argv, "seconds": CALL_SECONDS})
        feeder = threading.Thread(target=_feed, args=(self._process.stdin, self._reports), daemon=True)
        feeder.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker.scalars`."""
        self._put_json({"scalars": {key: float(value) for key, value in values.items()}, "step": step})

    def image(self, name: str, pixels: RGB, step: int) -> None:
        """As `Tracker.image`."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", compress_level=1)
        self._put_json({"image": name, "png": base64.b64encode(buffer.getvalue()).decode(), "step": step})

    def close(self) -> None:
        """As `Tracker.close`."""
        self._put(LAST)
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            raise TrackerStopped(f"it is still sending and was left to finish; see {self._log}") from None
        self._require(self._process.returncode == 0)

    def _put_json(self, report: Mapping[str, Any]) -> None:
        self._put(json.dumps(report, default=str).encode() + b"\n")

    def _put(self, line: bytes) -> None:
        self._require(self._process.poll() is None)
        try:
            self._reports.put_nowait(line)
        except queue.Full:
            self._process.kill()
            raise TrackerStopped(f"it is {QUEUED} reports behind; see {self._log}") from None

    def _require(self, well: bool) -> None:
        code = self._process.returncode
        if not well:
            if code == -signal.SIGALRM:
                raise TrackerStopped(f"no answer within {CALL_SECONDS} s; see {self._log}")
            last = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise TrackerStopped(
                f"its process ended with {code}, its last words were {last!r}; see {self._log}"
            )


def _feed(stream: IO[bytes], reports: "queue.Queue[bytes]") -> None:
    """Write all lines, or stop when the reader is gone; the next report logs that."""
    line = b""
    with suppress(OSError), stream:
        while line != LAST:
            line = reports.get()
            left = memoryview(line)
            while left:
                left = left[stream.write(left) :]  # a signal can cut a write short


def write_curves(metrics_csv: Path, target: Path) -> None:
    """Draw a run's losses, validation IoU and learning rate over its steps as one PNG.

    Args:
        metrics_csv: columns step, seconds, learning_rate, loss, validation_loss and validation_iou; a
            run without validation leaves the last two empty, and they are not drawn.
        target: the PNG; replaced whole.
    """
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    validated = bool(_points(rows, "validation_iou"))
    figure = Figure(figsize=(8, 8 if validated else 5), layout="constrained")
    losses, *ious, rates = figure.subplots(
        2 + validated, 1, sharex=True, height_ratios=(3, 3, 1) if validated else (3, 1)
    )

    _plot(losses, rows, "loss", "training", {"color": BLUE})
    losses.set_ylabel("loss")
    for axes in ious:
        look = {"color": VERMILION, "linestyle": "--", "marker": "o"}
        _plot(losses, rows, "validation_loss", "validation", look)
        _plot(axes, rows, "validation_iou", "validation", look)
        axes.set_ylabel("validation IoU")
        _mark_best(axes, rows)
    losses.legend(frameon=False)
    _plot(rates, rows, "learning_rate", "learning rate", {"color": GREY})
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rates.set_xlabel("step")
    if rows:
        passed = timedelta(seconds=round(float(rows[-1]["seconds"])))
        figure.suptitle(f"{len(rows)} epochs, {rows[-1]['step']} steps, {passed} h")
    for axes in (losses, *ious, rates):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    _write(figure, target)


def _plot(axes: Axes, rows: Sequence[Mapping[str, str]], column: str, label: str, look: Any) -> None:
    points = _points(rows, column)
    axes.plot([step for step, _ in points], [value for _, value in points], label=label, markersize=3, **look)


def _points(rows: Sequence[Mapping[str, str]], column: str) -> list[tuple[int, float]]:
    """Return step and value of the rows in which the column is filled."""
    return [(int(row["step"]), float(row[column])) for row in rows if row[column]]


def _mark_best(axes: Axes, rows: Sequence[Mapping[str, str]]) -> None:
    step, best = max(_points(rows, "validation_iou"), key=lambda point: point[1])
    axes.axhline(best, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title(f"best {best:.4f} at step {step}", loc="right", fontsize="medium", color=GREY)


def write_samples(panels: Sequence[Panel], target: Path) -> None:
    """Draw a row for each panel: image, ground truth, prediction, and their disagreement.

    Args:
        panels: name, (H, W) float32 normalised pixels, and two (H, W) bool masks: ground truth, prediction.
        target: the PNG; replaced whole.
    """
    heights = [PANEL_INCHES * pixels.shape[0] / pixels.shape[1] for _, pixels, _, _ in panels]
    figure = Figure(figsize=(4 * PANEL_INCHES, sum(heights) + 0.35 * len(panels) + 0.4), layout="constrained")
    grid = figure.subplots(len(panels), 4, squeeze=False, height_ratios=heights)
    for row, (name, pixels, ground_truth, mask) in zip(grid, panels, strict=True):
        shown = _grey(pixels)
        views = (shown, ground_truth, mask, _disagreement(shown, ground_truth, mask))
        for axes, view in zip(row, views, strict=True):
            axes.imshow(view, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_title(name, loc="left", fontsize="small")
        row[1].set_title("ground truth", loc="left", fontsize="small")
        row[2].set_title(
            f"prediction, IoU {metrics.score(mask, ground_truth).iou:.3f}", loc="left", fontsize="small"
        )
        row[3].set_title("missed", loc="left", fontsize="small", color=BLUE, weight="bold")
        row[3].set_title("too much", loc="right", fontsize="small", color=VERMILION, weight="bold")
    _write(figure, target)


def _grey(pixels: Pixels) -> Pixels:
    """Scale pixels of any range to 0..1, (H, W) float32."""
    low, high = np.percentile(pixels, PERCENTILES)
    grey: Pixels = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return grey


def _disagreement(grey: Pixels, ground_truth: metrics.Mask, mask: metrics.Mask) -> Pixels:
    """Colour the pixels that only one mask calls cell, on a paler image: (H, W, 3) float32 in 0..1."""
    shown: Pixels = np.repeat(grey[..., None] * 0.6 + 0.4, 3, axis=2)  # H, W, 3
    for wrong, colour in ((ground_truth & ~mask, BLUE), (mask & ~ground_truth, VERMILION)):
        shown[wrong] = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return shown


def _write(figure: Figure, target: Path) -> None:
    """Write a PNG so that an interruption leaves the old file or the new one, never half."""
    partial = target.with_suffix(".partial")
    FigureCanvasAgg(figure)
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(target)
