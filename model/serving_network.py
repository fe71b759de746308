"""The exported form of the Swin-UNet: the weights and logits of `swin_unet.py`, with fewer copies in memory.

It takes one tile and keeps the tokens as rows of one matrix throughout. Norms and MLPs do not depend on the
order of rows, so the rows stay in the order of the windows that attend next. One gather replaces training's
roll, partition and their inverses. Values that depend only on the weights are computed once. Attention is an
operator of ONNX (https://onnx.ai/onnx/operators/onnx__Attention.html), which ONNX Runtime runs as one step.
"""

import torch
from torch import Tensor, nn

from cytomask.model.swin_unet import (
    PatchExpanding,
    PatchMerging,
    SwinBlock,
    SwinUNet,
    WindowAttention,
    partition,
    shift_mask,
)

STRIDE = 8  # of the stem

# The order of a square feature map's tokens: (N,) int64, the raster index of each.
Order = Tensor


class ServingNetwork(nn.Module):
    """A trained network for one tile: (1, 1, tile, tile) float32 to logits of the same shape."""

    def __init__(self, network: SwinUNet) -> None:
        super().__init__()
        self.stem, self.head, self.norm = network.stem, network.head, network.norm
        side, window = network.config.tile // STRIDE, network.config.window
        order = raster_order(side)

        encoder, merges, skips = [], [], []
        for blocks, merge in zip(network.encoder, network.merges, strict=True):
            stage = Stage(blocks, side, order)
            encoder.append(stage)
            skips.append(stage.order)
            coarse = window_order(side // 2, window, 0)
            merges.append(Merge(merge, Reorder(stage.order, children(coarse, side // 2))))
            side, order = side // 2, coarse
        self.encoder, self.merges = nn.ModuleList(encoder), nn.ModuleList(merges)

        self.bottleneck = Stage(network.bottleneck, side, order)
        order = self.bottleneck.order

        expands, decoder = [], []
        for level in reversed(range(len(skips))):
            fine = window_order(2 * side, window, 0)
            from_below = Reorder(children(order, side), fine)
            expand = Expand(
                network.expands[level], network.fuses[level], from_below, Reorder(skips[level], fine)
            )
            stage = Stage(network.decoder[level], 2 * side, fine)
            expands.append(expand)
            decoder.append(stage)
            side, order = 2 * side, stage.order
        self.expands, self.decoder = nn.ModuleList(expands), nn.ModuleList(decoder)
        self.to_raster = Reorder(order, raster_order(side))

    def forward(self, image: Tensor) -> Tensor:
        *fine, x = self.stem(image)
        _, width, side, _ = x.shape
        x = x.reshape(width, -1).T  # N, C
        skips = []
        for stage, merge in zip(self.encoder, self.merges, strict=True):
            x = stage(x)
            skips.append(x)
            x = merge(x)
        x = self.bottleneck(x)
        for expand, stage in zip(self.expands, self.decoder, strict=True):
            x = stage(expand(x, skips.pop()))
        x = self.to_raster(self.norm(x)).T  # C, N
        logits: Tensor = self.head(x.reshape(1, width, side, side), *fine)
        return logits


class Reorder(nn.Module):
    """Move tokens from one order to another. Shape: (N, C) in and out."""

    def __init__(self, present: Order, wanted: Order) -> None:
        super().__init__()
        self.needed = not torch.equal(present, wanted)
        self.register_buffer("index", torch.argsort(present)[wanted])

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 0, self.get_buffer("index")) if self.needed else x


class Stage(nn.Module):
    """The blocks of one resolution. Shape: (N, C) in and out; tokens come out in the order `order`."""

    def __init__(self, blocks: nn.Module, side: int, order: Order) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for block in blocks.children():
            assert isinstance(block, SwinBlock)
            shift = block.shift if side > block.window else 0
            wanted = window_order(side, block.window, shift)
            steps += [Reorder(order, wanted), Block(block, side, shift)]
            order = wanted
        self.steps = nn.Sequential(*steps)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.steps(x)
        return out


class Block(nn.Module):
    """A `SwinBlock` on tokens that are ordered window by window. Shape: (N, C) in and out."""

    def __init__(self, block: SwinBlock, side: int, shift: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp, self.mlp = block.norm_attention, block.norm_mlp, block.mlp
        self.attention = Attention(block.attention, side, block.window, shift)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class Attention(nn.Module):
    """A `WindowAttention` on tokens that are ordered window by window. Shape: (N, C) in and out."""

    def __init__(self, attention: WindowAttention, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.tokens = window * window
        self.heads, self.scale = attention.heads, attention.scale
        self.qkv, self.project = attention.qkv, attention.project
        bias = attention.relative_bias[attention.relative_index].permute(2, 0, 1)[None]  # 1, h, T, T
        if shift:
            bias = bias + shift_mask(side, side, window, shift)[:, None]  # windows, h, T, T
        self.register_buffer("bias", bias.detach().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        query, key, value = (
            part.reshape(-1, self.tokens, width) for part in self.qkv(x).chunk(3, dim=-1)
        )  # each windows, T, C
        mixed, *_ = torch.onnx.ops.attention(
            query,
            key,
            value,
            self.get_buffer("bias"),
            q_num_heads=self.heads,
            kv_num_heads=self.heads,
            scale=self.scale,
        )
        out: Tensor = self.project(mixed.reshape(-1, width))
        return out


class Merge(nn.Module):
    """A `PatchMerging` of tokens that come in groups of four: (N, C) to (N/4, 2C)."""

    def __init__(self, merge: nn.Module, reorder: Reorder) -> None:
        super().__init__()
        assert isinstance(merge, PatchMerging)
        self.norm, self.reduce, self.reorder = merge.norm, merge.reduce, reorder

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.reduce(self.norm(self.reorder(x).reshape(-1, 4 * x.shape[-1])))
        return merged


class Expand(nn.Module):
    """A `PatchExpanding`, fused with the skip: (N, wide) and (4N, narrow) to (4N, narrow)."""

    def __init__(self, expand: nn.Module, fuse: nn.Module, reorder: Reorder, reorder_skip: Reorder) -> None:
        super().__init__()
        assert isinstance(expand, PatchExpanding)
        self.norm, self.expand, self.narrow = expand.norm, expand.expand, expand.narrow
        self.fuse, self.reorder, self.reorder_skip = fuse, reorder, reorder_skip

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.reorder(self.expand(self.norm(x)).reshape(-1, self.narrow))
        fused: Tensor = self.fuse(torch.cat([x, self.reorder_skip(skip)], dim=-1))
        return fused


def raster_order(side: int) -> Order:
    """Order the tokens row by row."""
    return torch.arange(side * side)


def window_order(side: int, window: int, shift: int) -> Order:
    """Order the tokens window by window, in a map rolled by `shift` up and left."""
    rolled = torch.roll(raster_order(side).reshape(1, side, side, 1), (-shift, -shift), dims=(1, 2))
    return partition(rolled, window).flatten()


def children(order: Order, side: int) -> Order:
    """List the four finer tokens of each token, in the order that merging and expanding use."""
    row, column = order // side, order % side
    corners = [(2 * row + down) * 2 * side + 2 * column + right for down in (0, 1) for right in (0, 1)]
    return torch.stack(corners, dim=1).flatten()
