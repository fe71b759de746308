"""What a run learns from: the images of its sources, and batches of random crops of them."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cytomask.model.predictor import cores, tile_side
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


Batch = tuple[Tensor, Tensor, Tensor]  # pixels, cells and known, each (B, 1, side, side)


class Batches:
    """Random crops, drawn ahead by processes while the device computes.

    A crop depends on seed, step and its place in the batch alone, not on what was drawn before or on the
    number of processes.
    """

    def __init__(self, mix: Mix, config: TrainingConfig, process: Process) -> None:
        self._crops = _Crops(mix, config, range(process.rank, config.batch_size, process.count))
        self._process = process

    def of(self, steps: Sequence[int]) -> Iterator[Batch]:
        """Yield this process's share of each step's crops, float32, on its device."""
        device, workers = self._process.device, max(cores() // self._process.count, 1)
        loader = DataLoader(
            self._crops,
            batch_size=None,
            sampler=steps,
            num_workers=min(workers, len(steps)),
            worker_init_fn=_prepare,
            pin_memory=device.type == "cuda",
        )
        for batch in loader:
            pixels, cells, known = (each.to(device, non_blocking=True) for each in batch)
            yield pixels, cells.float(), known.float()


class _Crops(Dataset[Batch]):
    """The crops of each step: pixels float32, cells and known uint8, a quarter of float32 to move."""

    def __init__(self, mix: Mix, config: TrainingConfig, places: range) -> None:
        self._mix, self._config, self._places = mix, config, places

    def __getitem__(self, step: int) -> Batch:
        crops = [self._crop(step, place) for place in self._places]
        pixels, cells, known = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*crops, strict=True))
        return pixels, cells.to(torch.uint8), known.to(torch.uint8)

    def _crop(self, step: int, place: int) -> Crop:
        rng = np.random.default_rng((self._config.seed, step % 2**32, place))
        return draw_crop(self._mix, tile_side(self._config.mode), self._config.augmentation, rng)


def _prepare(_worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads
