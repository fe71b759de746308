"""What a run learns from: the images of its sources, and batches of random crops of them."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cytomask.model.predictor import tile_side
from cytomask.training.crops import Crop, Labelled, Mix, draw_crop
from cytomask.training.experiment import TrainingConfig
from cytomask.training.processes import Process
from cytomask.training.sources import load, read_source


def read_data(config: TrainingConfig, data: Path) -> tuple[Mix, list[Labelled]]:
    """Read the images to train on, by weighted source, and those to validate on.

    Images of validation are never trained on, even if `train` names them too: LIVECell's training file lists
    some of its validation images (sartorius-research/LIVECell issue 26).

    Raises:
        FileNotFoundError, ValueError: as `read_source` and `load` do, the latter for all sources at once; a
            name in `hold_out` that no source of `train` has; a source with no image left to train on.
    """
    samples = {source: read_source(data, source) for source in (*config.train, *config.validation)}
    loaded = iter(load([sample for listed in samples.values() for sample in listed]))
    labelled = {source: list(islice(loaded, len(listed))) for source, listed in samples.items()}
    sources = {source: labelled[source] for source in config.train}
    names = {item.name for items in sources.values() for item in items}
    if unknown := set(config.hold_out) - names:
        raise ValueError(f"hold_out names images that train does not have: {', '.join(sorted(unknown))}")
    held_out = [item for items in sources.values() for item in items if item.name in config.hold_out]
    for source in config.validation:
        held_out += labelled[source]
    validated = {sample.image for source in config.validation for sample in samples[source]}
    mix = []
    for source, items in sources.items():
        kept = [
            item
            for sample, item in zip(samples[source], items, strict=True)
            if item.name not in config.hold_out and sample.image not in validated
        ]
        if not kept:
            raise ValueError(f"hold_out and validation leave nothing of {source}; take it out of train")
        mix.append((config.train[source], kept))
    return mix, held_out


class Batches:
    """Random crops, drawn ahead by threads while the device computes.

    A crop depends on seed, step and its place in the batch alone, not on what was drawn before or on the
    number of threads and processes.
    """

    def __init__(self, mix: Mix, config: TrainingConfig, process: Process) -> None:
        self._mix, self._config, self._process = mix, config, process
        self._places = range(process.rank, config.batch_size, process.count)
        self._executor = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def of(self, steps: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield this process's share of each step's crops, on its device, (B, 1, side, side) float32 each."""
        drawn = deque(self._draw(step) for step in steps[:2])
        for ahead in [*steps[2:], None, None][: len(steps)]:
            crops = [future.result() for future in drawn.popleft()]
            if ahead is not None:
                drawn.append(self._draw(ahead))
            pixels, cells, known = (
                torch.from_numpy(np.stack(arrays)).to(self._process.device)
                for arrays in zip(*crops, strict=True)
            )
            yield pixels, cells, known

    def _draw(self, step: int) -> list[Future[Crop]]:
        return [self._executor.submit(self._crop, step, place) for place in self._places]

    def _crop(self, step: int, place: int) -> Crop:
        rng = np.random.default_rng((self._config.seed, step % 2**32, place))
        return draw_crop(self._mix, tile_side(self._config.mode), self._config.augmentation, rng)
