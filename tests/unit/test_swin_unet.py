"""The network's contract: size, cost, shapes, and the reach of its windows."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cytomask.model.swin_unet import (
    WINDOW,
    SwinBlock,
    SwinUNet,
    SwinUNetConfig,
    count_parameters,
    partition,
    relative_position_index,
    shift_mask,
    unpartition,
)

SIDE = 2 * WINDOW  # tokens: the smallest map on which windows shift
TOKENS = WINDOW * WINDOW
WIDTH = 16


@pytest.fixture(scope="module")
def network() -> SwinUNet:
    torch.manual_seed(0)
    return SwinUNet().eval()


def block(*, shifted: bool) -> SwinBlock:
    torch.manual_seed(0)
    return SwinBlock(WIDTH, SwinUNetConfig(), shifted=shifted).eval()


def reached(block: SwinBlock, row: int, column: int) -> Tensor:
    """(SIDE, SIDE) bool: the tokens whose features change when one token's does."""
    generator = torch.Generator().manual_seed(1)
    plain = torch.randn(1, SIDE, SIDE, WIDTH, generator=generator)
    changed = plain.clone()
    changed[0, row, column, 0] += 5
    with torch.inference_mode():
        difference: Tensor = block(plain) - block(changed)
    return difference.abs().amax(dim=-1)[0] > 1e-6


def test_the_network_has_about_three_million_parameters(network: SwinUNet) -> None:
    assert 2_500_000 <= count_parameters(network) <= 3_500_000


def test_one_tile_costs_at_most_1_6_gflop(network: SwinUNet) -> None:
    # torch counts a multiplication and its addition as two.
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 1, 224, 224))
    assert counter.get_total_flops() <= 1.6e9


@pytest.mark.parametrize("shape", [(2, 1, 224, 224), (1, 1, 448, 448), (1, 1, 224, 448)])
def test_every_pixel_gets_one_logit(network: SwinUNet, shape: tuple[int, ...]) -> None:
    with torch.inference_mode():
        logits = network(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == shape
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_the_images_of_a_batch_do_not_influence_each_other(network: SwinUNet) -> None:
    images = torch.randn(3, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = network(images), network(images[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-4)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = SwinUNet()
    network(torch.randn(2, 1, 224, 224)).square().mean().backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_a_configuration_survives_conversion_to_plain_values() -> None:
    config = SwinUNetConfig(width=16, depths=(2, 4))
    assert SwinUNetConfig(**config.as_dict()) == config


def test_a_plain_block_reaches_all_of_a_window_and_nothing_else() -> None:
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[:WINDOW, WINDOW:] = True
    assert torch.equal(reached(block(shifted=False), row=2, column=9), expected)


def test_a_shifted_block_reaches_across_the_border_between_windows() -> None:
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[3:10, 3:10] = True
    assert torch.equal(reached(block(shifted=True), row=6, column=6), expected)


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [
        (0, 0, slice(0, 3), slice(0, 3)),
        (SIDE - 1, SIDE - 1, slice(10, SIDE), slice(10, SIDE)),
        (0, 5, slice(0, 3), slice(3, 10)),
        (5, SIDE - 1, slice(3, 10), slice(10, SIDE)),
    ],
)
def test_a_shifted_block_does_not_reach_the_opposite_edge(
    row: int, column: int, rows: slice, columns: slice
) -> None:
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[rows, columns] = True
    assert torch.equal(reached(block(shifted=True), row, column), expected)


def test_a_map_of_one_window_is_not_shifted() -> None:
    shifted = block(shifted=True)
    plain = block(shifted=False)
    one_window = torch.randn(1, WINDOW, WINDOW, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(shifted(one_window), plain(one_window))


def test_windows_go_back_to_their_places() -> None:
    x = torch.arange(2 * 14 * 21 * 3).reshape(2, 14, 21, 3)
    windows = partition(x)
    assert windows.shape == (2 * 2 * 3, TOKENS, 3)
    assert torch.equal(unpartition(windows, 2, 14, 21, 3), x)


def test_a_window_holds_neighbours_in_reading_order() -> None:
    x = torch.arange(14 * 14).reshape(1, 14, 14, 1)
    assert torch.equal(partition(x)[1].reshape(WINDOW, WINDOW), x[0, :7, 7:, 0])


def test_pairs_of_tokens_at_the_same_offset_share_a_bias() -> None:
    index = relative_position_index().reshape(WINDOW, WINDOW, WINDOW, WINDOW)  # row, column of each
    assert torch.equal(index[:-1, :-1, :-1, :-1], index[1:, 1:, 1:, 1:])


def test_the_offset_there_mirrors_the_offset_back() -> None:
    index = relative_position_index()
    offsets = (2 * WINDOW - 1) ** 2
    assert torch.equal(index + index.T, torch.full_like(index, offsets - 1))
    assert torch.equal(index.diagonal(), torch.full((TOKENS,), offsets // 2))
    assert set(index.flatten().tolist()) == set(range(offsets))


def test_the_mask_is_open_inside_and_closed_across_the_wrap() -> None:
    mask = shift_mask(SIDE, SIDE, WINDOW // 2)
    assert mask.shape == (4, TOKENS, TOKENS)
    assert set(mask.flatten().tolist()) == {-100.0, 0.0}
    assert torch.equal(mask, mask.transpose(1, 2))
    assert not mask[0].any()
    # The last window joins four corners of the image, of 4x4, 4x3, 3x4 and 3x3 tokens.
    assert int((mask[3] == 0).sum()) == 16**2 + 12**2 + 12**2 + 9**2
