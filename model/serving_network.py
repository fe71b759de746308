"""The Swin-UNet as it is exported: the weights and logits of `model.swin_unet`, with fewer copies in between.

Norms and MLPs do not mind the order of the tokens. So these stay in the order of the windows that attend
next, and one gather does what a roll, a partition and their inverses do in training. Tokens are rows of
matrices, whose biases ONNX Runtime adds within the product; what follows from weights alone is computed once.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.preprocess import TILE
from model.swin_unet import (
    WINDOW,
    PatchExpanding,
    PatchMerging,
    SwinBlock,
    SwinUNet,
    WindowAttention,
    partition,
    shift_mask,
)

TOKENS = WINDOW * WINDOW
STRIDE = 8  # of the stem

# Where the tokens of a square feature map are: (N,) int64, the raster index of each.
Order = Tensor


class ServingNetwork(nn.Module):
    """A trained network for tiles of 224 pixels: (B, 1, 224, 224) float32 to logits of the same shape."""

    def __init__(self, network: SwinUNet) -> None:
        super().__init__()
        self.stem, self.head, self.norm = network.stem, network.head, network.norm
        side = TILE // STRIDE
        order = raster_order(side)

        encoder, merges, skips = [], [], []
        for blocks, merge in zip(network.encoder, network.merges, strict=True):
            stage = Stage(blocks, side, order)
            encoder.append(stage)
            skips.append(stage.order)
            coarse = window_order(side // 2, 0)
            merges.append(Merge(merge, Reorder(stage.order, children(coarse, side // 2))))
            side, order = side // 2, coarse
        self.encoder, self.merges = nn.ModuleList(encoder), nn.ModuleList(merges)

        self.bottleneck = Stage(network.bottleneck, side, order)
        order = self.bottleneck.order

        expands, decoder = [], []
        for level in reversed(range(len(skips))):
            fine = window_order(2 * side, 0)
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
        side = x.shape[-1]
        x = x.flatten(2).transpose(1, 2)  # B, N, C
        skips = []
        for stage, merge in zip(self.encoder, self.merges, strict=True):
            x = stage(x)
            skips.append(x)
            x = merge(x)
        x = self.bottleneck(x)
        for expand, stage in zip(self.expands, self.decoder, strict=True):
            x = stage(expand(x, skips.pop()))
        x = self.to_raster(self.norm(x)).transpose(1, 2)  # B, C, N
        logits: Tensor = self.head(x.reshape(-1, x.shape[1], side, side), *fine)
        return logits


class Reorder(nn.Module):
    """Takes tokens from one order to another: (B, N, C) to the same."""

    def __init__(self, present: Order, wanted: Order) -> None:
        super().__init__()
        self.needed = not torch.equal(present, wanted)
        self.register_buffer("index", torch.argsort(present)[wanted])

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 1, self.get_buffer("index")) if self.needed else x


class Stage(nn.Module):
    """The blocks of one resolution: (B, N, C) to the same, whose tokens are then in the order `order`."""

    def __init__(self, blocks: nn.Module, side: int, order: Order) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for block in blocks.children():
            assert isinstance(block, SwinBlock)
            shift = block.shift if side > WINDOW else 0
            wanted = window_order(side, shift)
            steps += [Reorder(order, wanted), Block(block, side, shift)]
            order = wanted
        self.steps = nn.Sequential(*steps)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.steps(x)
        return out


class Block(nn.Module):
    """A `SwinBlock` whose tokens lie window by window: (B, N, C) to the same."""

    def __init__(self, block: SwinBlock, side: int, shift: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp, self.mlp = block.norm_attention, block.norm_mlp, block.mlp
        self.attention = Attention(block.attention, side, shift)

    def forward(self, x: Tensor) -> Tensor:
        _, tokens, width = x.shape
        rows = x.reshape(-1, width)  # B*N, C
        rows = rows + self.attention(self.norm_attention(rows))
        rows = rows + self.mlp(self.norm_mlp(rows))
        out: Tensor = rows.reshape(-1, tokens, width)
        return out


class Attention(nn.Module):
    """A `WindowAttention` over rows that lie window by window: (B*N, C) to the same."""

    def __init__(self, attention: WindowAttention, side: int, shift: int) -> None:
        super().__init__()
        self.heads, self.project = attention.heads, attention.project
        width = attention.project.in_features
        scale = torch.ones(3 * width)
        scale[:width] = attention.scale  # of the queries
        bias = attention.relative_bias[attention.relative_index].permute(2, 0, 1)  # h, T, T
        if shift:
            bias = bias + shift_mask(side, side, shift)[:, None]  # windows, h, T, T
        self.register_buffer("weight", (attention.qkv.weight * scale[:, None]).detach())
        self.register_buffer("offset", (attention.qkv.bias * scale).detach())
        self.register_buffer("bias", bias.detach().contiguous())

    def forward(self, rows: Tensor) -> Tensor:
        width = rows.shape[-1]
        weight, offset, bias = (self.get_buffer(name) for name in ("weight", "offset", "bias"))
        qkv = functional.linear(rows, weight, offset)
        qkv = qkv.reshape(-1, TOKENS, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each B*windows, h, T, C/h
        scores = query @ key.transpose(-2, -1)  # B*windows, h, T, T
        scores = scores.reshape(-1, *bias.shape) + bias  # B, windows, h, T, T where shifted
        scores = scores.reshape(-1, self.heads, TOKENS, TOKENS)
        mixed = scores.softmax(dim=-1) @ value  # B*windows, h, T, C/h
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(-1, width))
        return out


class Merge(nn.Module):
    """A `PatchMerging` of tokens that are brought four by four: (B, N, C) to (B, N/4, 2C)."""

    def __init__(self, merge: nn.Module, reorder: Reorder) -> None:
        super().__init__()
        assert isinstance(merge, PatchMerging)
        self.norm, self.reduce, self.reorder = merge.norm, merge.reduce, reorder

    def forward(self, x: Tensor) -> Tensor:
        _, tokens, width = x.shape
        merged: Tensor = self.reduce(self.norm(self.reorder(x).reshape(-1, tokens // 4, 4 * width)))
        return merged


class Expand(nn.Module):
    """A `PatchExpanding`, fused with the skip: (B, N, wide) and (B, 4N, narrow) to (B, 4N, narrow)."""

    def __init__(self, expand: nn.Module, fuse: nn.Module, reorder: Reorder, reorder_skip: Reorder) -> None:
        super().__init__()
        assert isinstance(expand, PatchExpanding)
        self.norm, self.expand, self.narrow = expand.norm, expand.expand, expand.narrow
        self.fuse, self.reorder, self.reorder_skip = fuse, reorder, reorder_skip

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        tokens = 4 * x.shape[1]
        x = self.expand(self.norm(x)).reshape(-1, tokens, self.narrow)
        both = torch.cat([self.reorder(x), self.reorder_skip(skip)], dim=-1)  # B, 4N, 2*narrow
        fused: Tensor = self.fuse(both.reshape(-1, 2 * self.narrow)).reshape(-1, tokens, self.narrow)
        return fused


def raster_order(side: int) -> Order:
    """Row by row."""
    return torch.arange(side * side)


def window_order(side: int, shift: int) -> Order:
    """Window by window, of a map that was rolled by `shift` up and left."""
    rolled = torch.roll(raster_order(side).reshape(1, side, side, 1), (-shift, -shift), dims=(1, 2))
    return partition(rolled).flatten()


def children(order: Order, side: int) -> Order:
    """The four finer tokens of each token of a map of `side`, as merging joins and expanding makes them."""
    row, column = order // side, order % side
    corners = [(2 * row + down) * 2 * side + 2 * column + right for down in (0, 1) for right in (0, 1)]
    return torch.stack(corners, dim=1).flatten()
