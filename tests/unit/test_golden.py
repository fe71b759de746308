"""Whatever makes serving faster, its masks stay those of the network in torch, over a golden set of pages."""

import numpy as np
import pytest
import torch

from infra.samples import phase_contrast_field
from model.export import load_checkpoint
from model.predictor import WEIGHTS, Mode, Predictor, logit, logits_of_page
from model.preprocess import Pixels, normalise

CHECKPOINT = WEIGHTS / "swin_unet.safetensors"
MOST_PIXELS = 0.001  # share of a page that may differ


@pytest.mark.skipif(not CHECKPOINT.is_file(), reason=f"{CHECKPOINT.name} is not shipped beside the manifest")
@pytest.mark.parametrize("mode", ["native", "resize"])
def test_masks_are_those_of_torch_within_a_thousandth_of_the_pixels(shipped: Predictor, mode: Mode) -> None:
    network = load_checkpoint(CHECKPOINT)

    def infer(tiles: Pixels) -> Pixels:
        with torch.inference_mode():
            logits: Pixels = network(torch.tensor(tiles)).numpy()
        return logits

    for seed in range(4):  # a culture each
        page = phase_contrast_field(seed, 240, 380).pixels
        expected = logits_of_page(normalise(page), mode, infer) >= logit(shipped.manifest.threshold)
        mask = shipped.predict(page, mode).mask
        assert 0.02 < expected.mean() < 0.98
        assert np.mean(mask != expected) <= MOST_PIXELS
