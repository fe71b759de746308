"""The network's contract: size, cost, shapes, and the reach of its windows."""

import json

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cytomask.model.swin_unet import (
    SwinBlock,
    SwinUNet,
    SwinUNetConfig,
    count_parameters,
    partition,
    relative_position_index,
    shift_mask,
    unpartition,
    with_mlp_ratio,
    with_window,
)

WINDOW = SwinUNetConfig().window
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


def test_the_network_has_about_two_million_parameters(network: SwinUNet) -> None:
    assert 2_000_000 <= count_parameters(network) <= 2_500_000


def test_one_tile_costs_at_most_2_6_gflop(network: SwinUNet) -> None:
    # torch counts a multiplication and its addition as two.
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 1, 288, 288))
    assert counter.get_total_flops() <= 2.6e9


@pytest.mark.parametrize("shape", [(2, 1, 288, 288), (1, 1, 576, 576), (1, 1, 288, 576)])
def test_every_pixel_gets_one_logit(network: SwinUNet, shape: tuple[int, ...]) -> None:
    with torch.inference_mode():
        logits = network(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == shape
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_the_images_of_a_batch_do_not_influence_each_other(network: SwinUNet) -> None:
    images = torch.randn(3, 1, 288, 288, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = network(images), network(images[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-4)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = SwinUNet()
    network(torch.randn(2, 1, 288, 288)).square().mean().backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_a_configuration_survives_conversion_to_plain_values() -> None:
    config = SwinUNetConfig(width=16, depths=(2, 4))
    assert SwinUNetConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_sizes_that_name_no_window_had_windows_of_seven_tokens() -> None:
    sizes = SwinUNetConfig(width=16).as_dict()
    del sizes["window"]
    assert SwinUNetConfig.from_dict(sizes) == SwinUNetConfig(width=16, window=7)


def test_wider_windows_keep_the_bias_of_every_pair_of_tokens_that_was_known() -> None:
    torch.manual_seed(0)
    narrow = SwinUNet(SwinUNetConfig(width=16, depths=(1,), window=7))
    for name, parameter in narrow.named_parameters():
        if name.endswith("relative_bias"):
            nn.init.normal_(parameter)
    wide = with_window(narrow, 9)
    assert wide.config == SwinUNetConfig(width=16, depths=(1,), window=9)
    name = "bottleneck.0.attention.relative_bias"
    before, after = (network.state_dict()[name] for network in (narrow, wide))
    heads = before.shape[1]
    square, wider = before.T.reshape(heads, 13, 13), after.T.reshape(heads, 17, 17)
    assert torch.equal(wider[:, 2:-2, 2:-2], square)
    assert torch.equal(wider[:, 0, 0], square[:, 0, 0])
    others = [name for name in narrow.state_dict() if not name.endswith("relative_bias")]
    assert all(torch.equal(narrow.state_dict()[name], wide.state_dict()[name]) for name in others)
    with pytest.raises(ValueError, match="windows of 9 tokens cannot be cut to 7"):
        with_window(wide, 7)


def test_narrower_mlps_keep_the_hidden_units_that_matter() -> None:
    torch.manual_seed(0)
    wide = SwinUNet(SwinUNetConfig(width=16, depths=(1,), mlp_ratio=4)).eval()
    for name, parameter in wide.named_parameters():
        if ".mlp.2.weight" in name:  # half of the hidden units, every other one, say next to nothing
            parameter.data[:, ::2] *= 1e-6
    narrow = with_mlp_ratio(wide, 2).eval()
    assert narrow.config == SwinUNetConfig(width=16, depths=(1,), mlp_ratio=2)
    page = torch.randn(1, 1, wide.config.tile, wide.config.tile)
    with torch.inference_mode():
        torch.testing.assert_close(narrow(page), wide(page), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="MLPs of 2 times the width cannot be widened to 4"):
        with_mlp_ratio(narrow, 4)


def test_a_plain_block_reaches_all_of_a_window_and_nothing_else() -> None:
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[:WINDOW, WINDOW:] = True
    assert torch.equal(reached(block(shifted=False), row=2, column=9), expected)


def test_a_shifted_block_reaches_across_the_border_between_windows() -> None:
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[4:13, 4:13] = True
    assert torch.equal(reached(block(shifted=True), row=6, column=6), expected)


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [
        (0, 0, slice(0, 4), slice(0, 4)),
        (SIDE - 1, SIDE - 1, slice(13, SIDE), slice(13, SIDE)),
        (0, 5, slice(0, 4), slice(4, 13)),
        (5, SIDE - 1, slice(4, 13), slice(13, SIDE)),
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
    x = torch.arange(2 * 18 * 27 * 3).reshape(2, 18, 27, 3)
    windows = partition(x, WINDOW)
    assert windows.shape == (2 * 2 * 3, TOKENS, 3)
    assert torch.equal(unpartition(windows, 2, 18, 27, 3), x)


def test_a_window_holds_neighbours_in_reading_order() -> None:
    x = torch.arange(SIDE * SIDE).reshape(1, SIDE, SIDE, 1)
    assert torch.equal(partition(x, WINDOW)[1].reshape(WINDOW, WINDOW), x[0, :WINDOW, WINDOW:, 0])


def test_pairs_of_tokens_at_the_same_offset_share_a_bias() -> None:
    index = relative_position_index(WINDOW).reshape(WINDOW, WINDOW, WINDOW, WINDOW)  # row, column of each
    assert torch.equal(index[:-1, :-1, :-1, :-1], index[1:, 1:, 1:, 1:])


def test_the_offset_there_mirrors_the_offset_back() -> None:
    index = relative_position_index(WINDOW)
    offsets = (2 * WINDOW - 1) ** 2
    assert torch.equal(index + index.T, torch.full_like(index, offsets - 1))
    assert torch.equal(index.diagonal(), torch.full((TOKENS,), offsets // 2))
    assert set(index.flatten().tolist()) == set(range(offsets))


def test_the_mask_is_open_inside_and_closed_across_the_wrap() -> None:
    mask = shift_mask(SIDE, SIDE, WINDOW, WINDOW // 2)
    assert mask.shape == (4, TOKENS, TOKENS)
    assert set(mask.flatten().tolist()) == {-100.0, 0.0}
    assert torch.equal(mask, mask.transpose(1, 2))
    assert not mask[0].any()
    # The last window joins four corners of the image, of 5x5, 5x4, 4x5 and 4x4 tokens.
    assert int((mask[3] == 0).sum()) == 25**2 + 20**2 + 20**2 + 16**2
