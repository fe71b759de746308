"""The convolutional baseline is as large as the Swin-UNet of its time, and can be saved and loaded."""

from pathlib import Path

import pytest
import torch

from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig, count_parameters
from cytomask.training.checkpoints import load_network, save
from cytomask.training.conv_unet import ConvUNet, ConvUNetConfig

SMALL = ConvUNetConfig(widths=(4, 8, 12))


def test_the_baseline_has_the_size_of_the_swin_unet_it_was_compared_with() -> None:
    compared = SwinUNet(SwinUNetConfig(mlp_ratio=4))
    assert count_parameters(ConvUNet()) == pytest.approx(count_parameters(compared), rel=0.1)


@pytest.mark.parametrize("shape", [(2, 1, 224, 224), (1, 1, 32, 96)])
def test_every_pixel_gets_a_logit(shape: tuple[int, ...]) -> None:
    network = ConvUNet(SMALL).eval()
    with torch.inference_mode():
        logits = network(torch.randn(shape))
    assert logits.shape == shape
    assert logits.dtype == torch.float32


def test_every_weight_learns() -> None:
    network = ConvUNet(SMALL)
    network(torch.randn(2, 1, 32, 32)).square().sum().backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


def test_the_baseline_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    network = ConvUNet(SMALL)
    save(network, tmp_path / "weights.safetensors")
    loaded = load_network(tmp_path / "weights.safetensors")
    assert isinstance(loaded, ConvUNet)
    assert loaded.config == SMALL
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
