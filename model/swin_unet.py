"""The Swin-UNet in torch, for training and export; serving runs the exported graph.

A U-Net whose stages are shifted-window transformer blocks, after Liu et al. 2021 (Swin Transformer,
arXiv:2103.14030) and Cao et al. 2021 (Swin-Unet, arXiv:2105.05537). Both ends are convolutional down to
stride 4, with a skip at each resolution: cell borders need single pixels, and attention over that many tokens
costs more than it gains.

Shapes use B batch, H and W rows and columns, C channels, h heads, T = window * window tokens.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 32  # of the bottleneck of the shipped networks
Positive = Annotated[int, Meta(ge=1)]


class SwinUNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the network; the defaults are those of the shipped `native` weights (2.2 M parameters).

    Attributes:
        width: channels of the tokens at stride 8; they double with every coarser stage.
        depths: number of blocks in each stage from stride 8 on; the decoder mirrors the encoder.
        mlp_ratio: hidden units of the MLPs, as a multiple of the tokens' channels.
        half_width, quarter_width: channels of the convolutions at strides 2 and 4.
        half_depth: number of convolutions in the head at stride 2.
        window: side of the windows of attention, in tokens.
    """

    width: Positive = 64
    depths: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (2, 2)
    bottleneck_depth: Positive = 2
    head_width: Positive = 16
    mlp_ratio: Positive = 2
    half_width: Positive = 16
    quarter_width: Positive = 32
    half_depth: Positive = 2
    window: Positive = 9

    @property
    def tile(self) -> int:
        """Side of the tiles, in pixels: windows fit at strides 8 and 16, and one is the whole tile at 32."""
        return STRIDE * self.window

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> "SwinUNetConfig":
        """Read what `as_dict` gave. Weights older than swin-unet-0.9 name no window: theirs was 7.

        Raises:
            ValueError: a size is unknown or has another type.
        """
        return msgspec.convert({"window": 7} | dict(sizes), cls)

    def as_dict(self) -> dict[str, Any]:
        """Return the sizes as plain values, as the manifest and the checkpoint carry them."""
        return msgspec.structs.asdict(self)


class SwinUNet(nn.Module):
    """Predicts one logit of "living cell" per pixel of a normalised phase-contrast tile.

    Shape:
        input (B, 1, H, W) float32, H and W multiples of the config's `tile`, because windows must fit
        at every stride; output (B, 1, H, W) float32 logits.
    """

    def __init__(self, config: SwinUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or SwinUNetConfig()
        widths = [self.config.width * 2**stage for stage in range(len(self.config.depths))]
        deepest = 2 * widths[-1]

        self.stem = Stem(self.config)
        self.encoder = nn.ModuleList(
            self._stage(width, depth) for width, depth in zip(widths, self.config.depths, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(width) for width in widths)
        self.bottleneck = self._stage(deepest, self.config.bottleneck_depth)
        self.expands = nn.ModuleList(PatchExpanding(2 * width, width) for width in widths)
        self.fuses = nn.ModuleList(nn.Linear(2 * width, width) for width in widths)
        self.decoder = nn.ModuleList(
            self._stage(width, depth, depth) for width, depth in zip(widths, self.config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[0])
        self.head = Head(self.config)
        self.apply(_initialise)

    def _stage(self, width: int, depth: int, before: int = 0) -> nn.Sequential:
        """Stack blocks that alternate plain and shifted windows; the first block has number `before`."""
        return nn.Sequential(
            *(SwinBlock(width, self.config, shifted=(before + index) % 2 == 1) for index in range(depth))
        )

    def forward(self, image: Tensor) -> Tensor:
        *fine, x = self.stem(image)
        x = x.permute(0, 2, 3, 1)  # B, H/8, W/8, C

        skips = []
        for stage, merge in zip(self.encoder, self.merges, strict=True):
            x = stage(x)
            skips.append(x)
            x = merge(x)

        x = self.bottleneck(x)  # B, H/32, W/32, 4C

        for level in reversed(range(len(skips))):
            x = self.expands[level](x)
            x = self.fuses[level](torch.cat([x, skips[level]], dim=-1))
            x = self.decoder[level](x)

        x = self.norm(x).permute(0, 3, 1, 2)  # B, C, H/8, W/8
        logits: Tensor = self.head(x, *fine)
        return logits


class Stem(nn.Module):
    """Convolutional patch embedding of stride 8 that keeps its finer features for the head."""

    def __init__(self, config: SwinUNetConfig) -> None:
        super().__init__()
        half, quarter = config.half_width, config.quarter_width
        self.at_half = nn.Sequential(convolution(1, half, stride=2), convolution(half, half))
        self.at_quarter = nn.Sequential(convolution(half, quarter, stride=2), Residual(quarter))
        self.embed = nn.Conv2d(quarter, config.width, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = self.at_half(image)  # B, half_width, H/2, W/2
        quarter = self.at_quarter(half)  # B, quarter_width, H/4, W/4
        return half, quarter, self.embed(quarter)


class Head(nn.Module):
    """Upsamples from stride 8 to pixels, joining the stem's features on the way.

    Convolutions at full resolution cost much and add little, so the last one works at stride 2 and predicts
    four pixels for each place.
    """

    def __init__(self, config: SwinUNetConfig) -> None:
        super().__init__()
        half, quarter = config.half_width, config.quarter_width
        self.to_quarter = nn.Conv2d(config.width, quarter, 1)
        self.fuse_quarter = nn.Sequential(convolution(quarter, quarter), Residual(quarter))
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.fuse_half = nn.Sequential(*(convolution(half, half) for _ in range(config.half_depth)))
        self.logit = nn.Conv2d(half, 4, 1)

    def forward(self, x: Tensor, half: Tensor, quarter: Tensor) -> Tensor:
        x = self.fuse_quarter(doubled(self.to_quarter(x)) + quarter)
        x = self.fuse_half(doubled(self.to_half(x)) + half)
        return functional.pixel_shuffle(self.logit(x), 2)  # B, 1, H, W


def doubled(x: Tensor) -> Tensor:
    """Double the resolution by repeating each pixel: (B, C, H, W) to (B, C, 2H, 2W)."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Residual(nn.Module):
    """Two convolutions with a skip around them (He et al. 2016, arXiv:1512.03385); the shape stays."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *convolution(width, width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.change(x))


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Build a 3x3 convolution with batch norm (folded into it at export) and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP, each with a residual. Shape: (B, H, W, C) in and out."""

    def __init__(self, width: int, config: SwinUNetConfig, *, shifted: bool) -> None:
        super().__init__()
        self.window = config.window
        self.shift = self.window // 2 if shifted else 0
        self.norm_attention = nn.LayerNorm(width)
        self.attention = WindowAttention(width, max(width // config.head_width, 1), config.window)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_ratio * width), nn.GELU(), nn.Linear(config.mlp_ratio * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        shift = self.shift if min(height, width) > self.window else 0

        windows = self.norm_attention(x)
        if shift:
            windows = torch.roll(windows, (-shift, -shift), dims=(1, 2))
        windows = partition(windows, self.window)  # B*windows, T, C
        mask = shift_mask(height, width, self.window, shift, x.device).to(x.dtype) if shift else None
        windows = self.attention(windows, mask)
        attended = unpartition(windows, batch, height, width, channels)  # B, H, W, C
        if shift:
            attended = torch.roll(attended, (shift, shift), dims=(1, 2))

        x = x + attended
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with a learned bias by relative position."""

    relative_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.relative_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_bias, std=0.02)
        self.register_buffer("relative_index", relative_position_index(window), persistent=False)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        count, tokens, width = windows.shape
        qkv = self.qkv(windows).reshape(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each B*windows, h, T, C/h

        scores = (query * self.scale) @ key.transpose(-2, -1)  # B*windows, h, T, T
        bias = self.relative_bias[self.relative_index].permute(2, 0, 1)  # h, T, T
        if mask is None:
            scores = scores + bias
        else:
            per_image = mask.shape[0]
            scores = scores.reshape(-1, per_image, self.heads, tokens, tokens)  # B, windows, h, T, T
            scores = (scores + (bias + mask[:, None])).reshape(count, self.heads, tokens, tokens)
        mixed = scores.softmax(dim=-1) @ value  # B*windows, h, T, C/h
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(count, tokens, width))
        return out


class PatchMerging(nn.Module):
    """Halves the resolution and doubles the width: (B, H, W, C) to (B, H/2, W/2, 2C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        merged: Tensor = self.reduce(self.norm(x))
        return merged


class PatchExpanding(nn.Module):
    """Doubles the resolution: (B, H, W, wide) to (B, 2H, 2W, narrow), the mirror of merging."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.narrow = narrow
        self.norm = nn.LayerNorm(wide)
        self.expand = nn.Linear(wide, 4 * narrow, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        x = self.expand(self.norm(x)).reshape(batch, height, width, 2, 2, self.narrow)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, self.narrow)


def partition(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C) into windows: (B * H/window * W/window, T, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def unpartition(windows: Tensor, batch: int, height: int, width: int, channels: int) -> Tensor:
    """Put windows back in their places: the inverse of `partition`."""
    side = math.isqrt(windows.shape[1])
    x = windows.reshape(batch, height // side, width // side, side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


def relative_position_index(window: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window: (T, T) int64."""
    axis = torch.arange(window)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    row, column = rows.flatten(), columns.flatten()  # T each
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    return down * (2 * window - 1) + right


def with_window(network: SwinUNet, window: int) -> SwinUNet:
    """Return the network with wider windows; every pair of tokens that it knew keeps its bias.

    Pairs that are farther apart than in its own windows take the bias of the farthest that it knew. Liu et
    al. 2021 interpolate instead, which scored the same here.

    Raises:
        ValueError: the windows would be narrower.
    """
    wider = window - network.config.window
    if wider < 0:
        raise ValueError(f"windows of {network.config.window} tokens cannot be cut to {window}")
    made = SwinUNet(msgspec.structs.replace(network.config, window=window))
    weights = network.state_dict()
    for name, bias in weights.items():
        if name.endswith(".relative_bias"):
            side, heads = 2 * network.config.window - 1, bias.shape[1]
            square = bias.T.reshape(1, heads, side, side)
            padded = functional.pad(square, (wider, wider, wider, wider), mode="replicate")
            weights[name] = padded.reshape(heads, -1).T.contiguous()
    made.load_state_dict(weights)
    return made


def with_mlp_ratio(network: SwinUNet, ratio: int) -> SwinUNet:
    """Return the network with narrower MLPs that keep their hidden units of the largest weights.

    A unit's size is the product of the norms of its weights in and out (magnitude pruning: Han et al. 2015,
    arXiv:1506.02626). The network must be trained on before it is as good as it was.

    Raises:
        ValueError: the MLPs would be wider.
    """
    if ratio > network.config.mlp_ratio:
        raise ValueError(f"MLPs of {network.config.mlp_ratio} times the width cannot be widened to {ratio}")
    made = SwinUNet(msgspec.structs.replace(network.config, mlp_ratio=ratio))
    weights = network.state_dict()
    for name in [name for name in weights if name.endswith(".mlp.0.weight")]:
        block = name.removesuffix("0.weight")
        inward, outward = weights[name], weights[f"{block}2.weight"]  # (hidden, width), (width, hidden)
        hidden = ratio * inward.shape[1]
        kept = (inward.norm(dim=1) * outward.norm(dim=0)).topk(hidden).indices.sort().values
        weights[name], weights[f"{block}0.bias"] = inward[kept], weights[f"{block}0.bias"][kept]
        weights[f"{block}2.weight"] = outward[:, kept]
    made.load_state_dict(weights)
    return made


def shift_mask(
    height: int, width: int, window: int, shift: int, device: torch.device | None = None
) -> Tensor:
    """Keep tokens that the cyclic shift brought together from attending to each other.

    Returns (windows, T, T) float32: 0 within a region of the unrolled image, -100 across regions.
    """
    regions = [slice(0, -window), slice(-window, -shift), slice(-shift, None)]
    label = torch.zeros(1, height, width, 1, device=device)
    for row_index, rows in enumerate(regions):
        for column_index, columns in enumerate(regions):
            label[:, rows, columns, :] = row_index * len(regions) + column_index
    windows = partition(label, window).squeeze(-1)  # windows, T
    return (windows[:, :, None] != windows[:, None, :]).float() * -100.0


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters of the network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _initialise(module: nn.Module) -> None:
    """Initialise linear layers from a truncated normal, as Swin does; keep torch's defaults elsewhere."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
