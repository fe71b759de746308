"""Train weights further on a few corrected pages: the loop of `cytomask finetune`.

A few pages cannot teach everything, so the weights stay near the start weights. Batch norm keeps its
statistics, each step pulls the weights a little towards the start, and on generated pages the network learns
to predict what the start weights predict. At the end the weights are interpolated between start and result;
the held-out pages choose how far.

It trains on the CUDA device if torch finds one, on the CPU otherwise. On an H200 twelve runs side by side
reached their first checkpoints before the device's time was up; none was run to its end there.
"""

import copy
import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cytomask import metrics
from cytomask.model.predictor import Mode, cores, logit, logits_of_page, tile_side
from cytomask.model.preprocess import TILE, Pixels, normalise
from cytomask.model.swin_unet import SwinUNet
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.calibrate import best_factor
from cytomask.training.checkpoints import write_whole
from cytomask.training.crops import Augmentation, Crop, Labelled, random_crop
from cytomask.training.losses import loss_of
from cytomask.training.processes import Process, join
from cytomask.training.validation import tile_function

SHARES = (1.0, 0.85, 0.7, 0.5)  # of the way from the start weights to the last ones, the farthest first
NEARER = 0.003  # mean IoU we give up for weights that stay nearer to the start
THRESHOLDS = tuple(percent / 100 for percent in range(30, 75, 5))
GAIN = 0.005  # mean IoU that a threshold must gain over 0.5 to replace it
PIXELS_FOR_FACTOR = 2_000_000
PARTS = 2  # of each batch; on the CPU each has its own thread
AHEAD = 4  # steps whose crops are drawn before a GPU needs them
WARMUP_STEPS = 20
FEWEST_STEPS, STEPS_A_PAGE, MOST_STEPS = 300, 100, 1200  # twelve minutes on two cores of a slow machine
CHECKS = 10  # how often a run scores the held-out pages
PATIENCE = 4  # end the run after this many scorings without a gain
GENERATED = 12  # generated pages (`samples.fields`, seeds 0 to 11) on which the start weights teach
GENERATED_SIZE = (448, 448)
PARTS_OF_PAGE = 3
PART_SHARE = (0.4, 0.8)  # of height and width
MARKED = 3  # weight of a marked pixel; an unmarked one, which may be a cell like it, has 1
STATE = "state.pt"

# Gentle: the pages to come are like those at hand. Half of the crops are not resampled, as in serving.
NATIVE = Augmentation(
    zoom=(0.8, 1.3),
    unscaled=0.5,
    squash=0.0,
    affine=0.3,
    blur=0.05,
    blur_deviation=1.2,
    gamma=0.3,
    noise=0.3,
    repage=0.1,
    light=0.15,
    light_depth=1.0,
    marks=0.03,
)
RESIZE = msgspec.structs.replace(NATIVE, squash=1.0, squash_window=0.6, repage=0.2)


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How weights are fine-tuned.

    Attributes:
        mode: the mode that the weights will serve.
        steps: the most steps to train.
        batch: crops of the user's pages in each step, an even number.
        held: crops of generated pages added to each step, on which the start weights teach; an even number.
        learning_rate: the peak; the rate rises for 20 steps, then falls as a cosine.
        pull: each step moves the weights back to the start by this share times the learning rate.
        average_decay: decay of the exponential moving average of the weights, which is scored and kept.
        seed: seed of the crops.
        partial: the user marked only some cells. Unmarked pixels are unknown; the start weights teach there.
    """

    mode: Mode = "native"
    steps: int = 1200
    batch: int = 8
    held: int = 2
    learning_rate: float = 2e-3
    pull: float = 0.05
    average_decay: float = 0.99
    seed: int = 0
    partial: bool = False


def steps_for(pages: int) -> int:
    """Return how many steps to train on this many pages: more pages allow a longer run."""
    return min(FEWEST_STEPS + STEPS_A_PAGE * pages, MOST_STEPS)


class Interrupted(Exception):
    """The run was stopped and wrote everything it needs to resume."""


@dataclass(frozen=True)
class Step:
    """Progress of a run, for one line on the terminal."""

    step: int
    steps: int
    loss: float
    iou: float | None
    seconds_left: float


@dataclass(frozen=True)
class Tuned:
    """Fine-tuned weights.

    Attributes:
        network: the weights, with calibrated logits, on the CPU.
        threshold: probability at or above which a pixel is cell, 0..1.
        share: how far the weights moved from the start weights towards the last ones, 0..1.
        steps: steps trained.
        factor: factor that calibrated the logits.
    """

    network: SwinUNet
    threshold: float
    share: float
    steps: int
    factor: float


@dataclass
class _Progress:
    step: int = 0
    best: float = -1.0
    stale: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def tune(
    start: SwinUNet,
    train: Sequence[Labelled],
    held_out: Sequence[Labelled],
    recipe: Recipe,
    folder: Path,
    *,
    report: Callable[[Step], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Fine-tune the weights, or resume an interrupted run of the same recipe and pages.

    Args:
        start: weights to begin from; they are not changed.
        train: pages to learn from, at least one.
        held_out: pages that decide when to stop, how far to move from the start, and the threshold. Without
            any, all steps are trained and the threshold stays 0.5.
        recipe: how to train.
        folder: where the state for resuming is kept.
        report: called after each step.
        stopped: called after each step; return True to stop.

    Raises:
        Interrupted: `stopped` returned True.
        ValueError: the folder holds the state of another run, or the loss is not a number.
    """
    with one_thread(), join("auto") as process:
        run = _Run(start, train, recipe, process)
        state = folder / STATE
        if state.exists():
            run.resume(state)
        try:
            run.learn(held_out, state, report, stopped)
        finally:
            run.pool.shutdown(cancel_futures=True)
        shared, share = _choose_share(run.start, run.best, held_out, recipe)
        factor = _factor(shared, held_out or train, recipe)
        threshold = 0.5 if recipe.partial else _choose_threshold(shared, factor, held_out, recipe)
    with torch.no_grad():
        for parameter in shared.head.logit.parameters():
            parameter.mul_(factor)
    return Tuned(shared.cpu(), threshold, share, run.progress.step, factor)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run each torch operation in a single thread within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# A part of a batch: pixels, cells and known, (crops, 1, side, side) float32 each, the latter two 0 or 1.
Part = tuple[Tensor, Tensor, Tensor]


class _Run:
    """The state of one run; its networks are on the device of the process."""

    def __init__(self, start: SwinUNet, train: Sequence[Labelled], recipe: Recipe, process: Process) -> None:
        torch.manual_seed(recipe.seed)
        self.process = process
        self.start = copy.deepcopy(start).to(process.device).eval()
        # Train in evaluation mode, or the batch norm statistics of a few pages would replace those of many.
        self.network = copy.deepcopy(self.start)
        self.average = copy.deepcopy(self.start)
        self.best = copy.deepcopy(self.start)
        self.train, self.recipe = train, recipe
        self.views = [views_of(page, place) for place, page in enumerate(train)]
        self.augmentation = NATIVE if recipe.mode == "native" else RESIZE
        self.generated = _generated() if recipe.held else []
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.progress = _Progress()
        self.ahead = 0 if process.device.type == "cpu" else AHEAD
        self.drawn: deque[list[Future[Part]]] = deque()  # the parts of this step and of those ahead
        self.pool = ThreadPoolExecutor(min(PARTS * max(self.ahead, 1), cores()))

    def learn(
        self,
        held_out: Sequence[Labelled],
        state: Path,
        report: Callable[[Step], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Train all steps, or stop early when the held-out pages stop improving."""
        recipe, progress = self.recipe, self.progress
        every = max(recipe.steps // CHECKS, 1)
        began = time.monotonic() - progress.seconds
        while progress.step < recipe.steps and progress.stale < PATIENCE:
            loss = self.step()
            progress.step += 1
            iou = None
            if progress.step % every == 0 or progress.step == recipe.steps:
                iou = self.check(held_out)
                progress.seconds = time.monotonic() - began
                self.save(state)
            seconds = time.monotonic() - began
            left = seconds / progress.step * (recipe.steps - progress.step)
            report(Step(progress.step, recipe.steps, loss, iou, left))
            if stopped() and progress.step < recipe.steps:
                progress.seconds = time.monotonic() - began
                self.save(state)
                raise Interrupted

    def step(self) -> float:
        """Learn from one batch and return its loss."""
        rate = self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        parameters = [*self.network.parameters()]
        losses, gradients = zip(*self._learn_batch(), strict=True)
        loss = fmean(losses)
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} after {self.progress.step} steps; begin again")
        for parameter, *each in zip(parameters, *gradients, strict=True):
            parameter.grad = torch.stack(each).mean(0) if len(each) > 1 else each[0]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimiser.step()
        self._pull(rate * self.recipe.pull)
        self._update_average()
        return loss

    def _learn_batch(self) -> list[tuple[float, Sequence[Tensor]]]:
        """Compute loss and gradients of this step's batch.

        On the CPU each part of the batch runs in its own thread. That is faster than splitting each operation
        between threads, and other work on the machine slows it down less. A GPU takes the whole batch at
        once, and the threads draw the crops of the steps ahead.
        """
        step, pool = self.progress.step, self.pool
        if not self.ahead:
            return list(pool.map(lambda part: self._learn([self._draw_part(step, part)]), range(PARTS)))
        while len(self.drawn) < self.ahead:
            later = step + len(self.drawn)
            self.drawn.append([pool.submit(self._draw_part, later, part) for part in range(PARTS)])
        return [self._learn([part.result() for part in self.drawn.popleft()])]

    def _draw_part(self, step: int, part: int) -> Part:
        """Draw the crops for one part of a batch: first from the user's pages, then from generated ones.

        They depend only on seed, step and part, so a resumed run draws the same ones, and so does another
        device.
        """
        recipe, side = self.recipe, tile_side(self.recipe.mode)
        rng = np.random.default_rng((recipe.seed, step, part))
        crops = [
            _draw(self.views[int(rng.integers(len(self.views)))], side, self.augmentation, rng)
            for _ in range(recipe.batch // PARTS)
        ]
        crops += [_draw(self.generated, side, self.augmentation, rng) for _ in range(recipe.held // PARTS)]
        pixels, cells, known = (torch.from_numpy(np.stack(each)) for each in zip(*crops, strict=True))
        return pixels, cells, known

    def _learn(self, parts: Sequence[Part]) -> tuple[float, Sequence[Tensor]]:
        """Compute the mean loss of parts of a batch and its gradients, in one pass."""
        recipe, own = self.recipe, self.recipe.batch // PARTS
        pixels, cells, known = (  # parts, crops, 1, side, side
            torch.stack(each).to(self.process.device) for each in zip(*parts, strict=True)
        )
        logits = self._logits(self.network, pixels)
        losses = []
        if not recipe.partial:
            losses = [
                loss_of(given, truth, "bce_lovasz", weights)
                for given, truth, weights in zip(logits[:, :own], cells[:, :own], known[:, :own], strict=True)
            ]
        first = 0 if recipe.partial else own  # of the crops on which the start weights teach
        if first < pixels.shape[1]:
            with torch.no_grad():
                wanted = self._logits(self.start, pixels[:, first:]).sigmoid()
            weights = torch.ones_like(wanted)
            if recipe.partial:
                # One mean over marked and unmarked pixels. Marks are all cell: in a mean of their own, they
                # would outweigh the background, and masks would grow.
                marked = cells[:, :own] * known[:, :own]
                wanted[:, :own] = torch.maximum(wanted[:, :own], marked)
                weights[:, :own] += (MARKED - 1) * marked
            apart = functional.binary_cross_entropy_with_logits(
                logits[:, first:], wanted, weights, reduction="none"
            )
            losses += [*(apart.flatten(1).sum(1) / weights.flatten(1).sum(1))]
        loss = torch.stack(losses).sum() / len(parts)
        gradients = torch.autograd.grad(loss, [*self.network.parameters()])
        return loss.item(), gradients

    def check(self, held_out: Sequence[Labelled]) -> float | None:
        """Score the averaged weights on the held-out pages and keep the best so far."""
        progress = self.progress
        if not held_out:
            self.best.load_state_dict(self.average.state_dict())
            return None
        iou = mean_iou(self.average, held_out, self.recipe)
        if iou > progress.best:
            progress.best, progress.stale = iou, 0
            self.best.load_state_dict(self.average.state_dict())
        else:
            progress.stale += 1
        progress.history.append({"step": progress.step, "iou": round(iou, 4)})
        return iou

    def save(self, path: Path) -> None:
        """Write everything that `resume` needs."""
        state = {
            "recipe": msgspec.json.encode(self.recipe).decode(),
            "pages": [item.name for item in self.train],
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda partial: torch.save(state, partial))

    def resume(self, path: Path) -> None:
        """Restore what `save` wrote; raise ValueError if it belongs to another run."""
        try:
            # On the CPU: AdamW keeps its counts of steps there, and `load_state_dict` copies the rest.
            state = torch.load(path, map_location="cpu", weights_only=True)
            same = state["recipe"] == msgspec.json.encode(self.recipe).decode()
            same = same and state["pages"] == [item.name for item in self.train]
            if same:
                for name in ("network", "average", "best"):
                    getattr(self, name).load_state_dict(state[name])
                self.optimiser.load_state_dict(state["optimiser"])
                self.progress = _Progress(**state["progress"])
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged; remove it to begin again") from error
        if not same:
            raise ValueError(
                f"{path.parent} holds a run with other pages or settings that was stopped; repeat its "
                "command to go on with it, or remove the folder to begin again"
            )

    def _rate(self) -> float:
        """Compute this step's learning rate: warm-up, then half a cosine (Loshchilov & Hutter 2017)."""
        step, recipe = self.progress.step, self.recipe
        rise = min((step + 1) / WARMUP_STEPS, 1)
        return recipe.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))

    def _logits(self, network: SwinUNet, pixels: Tensor) -> Tensor:
        """Compute logits: (parts, crops, 1, side, side) float32 in and out."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.process.half):
            logits: Tensor = network(pixels.flatten(0, 1))
        return logits.float().reshape(pixels.shape)

    @torch.no_grad()
    def _pull(self, share: float) -> None:
        """Move the weights a share of the way back to the start (Li et al. 2018, arXiv:1802.01483)."""
        if share:
            for now, then in zip(self.network.parameters(), self.start.parameters(), strict=True):
                now.lerp_(then, share)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the moving average; it follows faster in the first steps."""
        step = self.progress.step
        decay = min(self.recipe.average_decay, (1 + step) / (10 + step))
        for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)


def mean_iou(
    network: SwinUNet, pages: Sequence[Labelled], recipe: Recipe, thresholds: Sequence[float] = (0.5,)
) -> float:
    """Compute the pages' mean IoU over known pixels, at the best of the thresholds."""
    return max(_mean_ious(network, pages, recipe, thresholds).values())


def _mean_ious(
    network: SwinUNet,
    pages: Sequence[Labelled],
    recipe: Recipe,
    thresholds: Sequence[float],
    factor: float = 1.0,
) -> dict[float, float]:
    ious: dict[float, list[float]] = {threshold: [] for threshold in thresholds}
    for page in pages:
        logits, known = factor * logits_of(network, page, recipe.mode), page.weights() > 0
        for threshold, each in ious.items():
            each.append(metrics.score((logits >= logit(threshold)) & known, page.cells & known).iou)
    return {threshold: fmean(each) for threshold, each in ious.items()}


def logits_of(network: SwinUNet, page: Labelled, mode: Mode) -> Pixels:
    """Compute the logits of a page the way serving does: (H, W) float32."""
    device = next(network.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=Process(device).half):
        return logits_of_page(page.pixels, mode, tile_function(network, device))


def between(start: SwinUNet, end: SwinUNet, share: float) -> SwinUNet:
    """Interpolate between two networks of the same architecture: 0 is the start, 1 the end."""
    mixed = copy.deepcopy(start)
    with torch.no_grad():
        for value, last in zip(mixed.parameters(), end.parameters(), strict=True):
            value.lerp_(last, share)
    return mixed


def _choose_share(
    start: SwinUNet, end: SwinUNet, held_out: Sequence[Labelled], recipe: Recipe
) -> tuple[SwinUNet, float]:
    """Choose the weights nearest to the start that score about as well as the best (arXiv:2109.01903)."""
    if not held_out:
        return between(start, end, 1.0), 1.0
    candidates = [(share, between(start, end, share)) for share in SHARES]
    scores = [mean_iou(network, held_out, recipe) for _, network in candidates]
    chosen = max(place for place, score in enumerate(scores) if score >= max(scores) - NEARER)
    share, network = candidates[chosen]
    return network, share


def _choose_threshold(
    network: SwinUNet, factor: float, held_out: Sequence[Labelled], recipe: Recipe
) -> float:
    """Choose the threshold that scores best on the held-out pages; keep 0.5 unless the gain is clear."""
    if len(held_out) < 2:  # a single page's best threshold may not suit other pages
        return 0.5
    ious = _mean_ious(network, held_out, recipe, THRESHOLDS, factor)
    best = max(ious, key=lambda threshold: (ious[threshold], -abs(threshold - 0.5)))
    return best if ious[best] >= ious[0.5] + GAIN else 0.5


def _factor(network: SwinUNet, pages: Sequence[Labelled], recipe: Recipe) -> float:
    """Find the factor that calibrates the logits, from the pages' known pixels."""
    logits, cells = [], []
    for page in pages:
        known = page.weights() > 0
        logits.append(logits_of(network, page, recipe.mode)[known])
        cells.append(page.cells[known])
    given, truth = np.concatenate(logits), np.concatenate(cells)
    if truth.all() or not truth.any():  # partial truths hold one class, which fixes no factor
        return 1.0
    step = max(given.size // PIXELS_FOR_FACTOR, 1)
    return best_factor(given[::step], truth[::step])


def _draw(pages: Sequence[Labelled], side: int, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    return random_crop(pages[int(rng.integers(len(pages)))], side, augmentation, rng)


def views_of(page: Labelled, seed: int) -> list[Labelled]:
    """Return a page and parts of it, each normalised as a page of its own.

    How a page is normalised depends on its share of cells. A few pages cover only a few such shares; their
    parts add others.
    """
    rng = np.random.default_rng(seed)
    views = [page]
    for _ in range(PARTS_OF_PAGE):
        share = rng.uniform(*PART_SHARE)
        lengths = [min(max(round(share * length), TILE), length) for length in page.cells.shape]
        starts = [
            int(rng.integers(whole - part + 1)) for whole, part in zip(page.cells.shape, lengths, strict=True)
        ]
        window = tuple(slice(at, at + part) for at, part in zip(starts, lengths, strict=True))
        pixels = normalise(page.pixels[window])
        if pixels.any():
            known = None if page.known is None else page.known[window]
            views.append(Labelled(page.name, pixels, page.cells[window], known))
    return views


def _generated() -> list[Labelled]:
    """Make the generated pages. Their truths are not used: the start weights teach on them."""
    pages = [phase_contrast_field(seed, *GENERATED_SIZE) for seed in range(GENERATED)]
    return [
        Labelled(f"generated-{seed}", normalise(page.pixels), page.cells) for seed, page in enumerate(pages)
    ]
