"""The exported network predicts what the trained one predicts."""

import pytest
import torch

from cytomask.model.serving_network import ServingNetwork, children, raster_order, window_order
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig, shift_mask


def logits(network: torch.nn.Module, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        out: torch.Tensor = network(torch.randn(1, 1, side, side, generator=generator))
    return out


def test_the_serving_networks_logits_equal_the_networks(network: SwinUNet) -> None:
    expected = logits(network, network.config.tile)
    assert expected.std() > 0.2
    torch.testing.assert_close(
        logits(ServingNetwork(network).eval(), network.config.tile), expected, rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("window", [7, 9])
@pytest.mark.parametrize("depths", [(3,), (1, 2)])
def test_any_number_of_stages_and_blocks_can_be_exported(depths: tuple[int, ...], window: int) -> None:
    torch.manual_seed(1)
    sizes = SwinUNetConfig(width=16, depths=depths, bottleneck_depth=3, half_width=4, window=window)
    network = SwinUNet(sizes).eval()
    expected = logits(network, network.config.tile)
    torch.testing.assert_close(
        logits(ServingNetwork(network).eval(), network.config.tile), expected, rtol=0, atol=1e-5
    )


def test_tokens_of_one_window_follow_each_other() -> None:
    assert window_order(14, 7, 0)[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 14]
    assert window_order(14, 7, 0)[49:51].tolist() == [7, 8]
    assert window_order(14, 7, 3)[:2].tolist() == [3 * 14 + 3, 3 * 14 + 4]
    assert torch.equal(window_order(14, 7, 3).sort().values, raster_order(14))
    assert shift_mask(14, 14, 7, 3).shape == (4, 49, 49)


def test_the_four_finer_tokens_of_a_token_are_adjacent() -> None:
    assert children(raster_order(2), 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
