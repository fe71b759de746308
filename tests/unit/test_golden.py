"""Served masks equal those of the network in torch, over a golden set of pages."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from real_images import LIVECELL, needs

from cytomask import images
from cytomask.model.export import load_checkpoint
from cytomask.model.predictor import WEIGHTS, Mode, Predictor, logit, logits_of_page
from cytomask.model.preprocess import Pixels, normalise
from cytomask.samples.fields import phase_contrast_field

IMAGES = LIVECELL / "images"
MOST_PIXELS = 0.001  # share of a page that may differ


@pytest.fixture(params=["generated", pytest.param("real", marks=[needs(IMAGES), pytest.mark.slow])])
def golden(request: pytest.FixtureRequest) -> list[NDArray[Any]]:
    """Return pages of several cultures, generated or LIVECell's."""
    if request.param == "generated":
        return [phase_contrast_field(seed, 240, 380).pixels for seed in range(2)]
    return [images.read_page(path).pixels for path in sorted(IMAGES.glob("*.tif"))[::4]]


@pytest.mark.parametrize("mode", ["native", "resize"])
def test_masks_are_those_of_torch_within_a_thousandth_of_the_pixels(
    shipped: Predictor, mode: Mode, golden: list[NDArray[Any]]
) -> None:
    network = load_checkpoint(WEIGHTS / mode / "swin_unet.safetensors")

    def infer(tiles: Pixels) -> Pixels:
        with torch.inference_mode():
            logits: Pixels = network(torch.tensor(tiles)).numpy()
        return logits

    for page in golden:
        expected = logits_of_page(normalise(page), mode, infer) >= logit(shipped.manifests[mode].threshold)
        mask = shipped.predict(page, mode).mask
        assert 0.02 < expected.mean() < 0.98
        assert np.mean(mask != expected) <= MOST_PIXELS
