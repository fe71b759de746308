"""The network that cytomask replaces, rebuilt from its description: 3,050,649 random parameters.

A Swin-UNet of stride 4 without convolutions at its ends (Cao et al. 2021, arXiv:2105.05537). Its weights are
not available, and the time does not depend on them. The blocks are ours.
"""

import torch
from torch import Tensor, nn

from cytomask.model.swin_unet import PatchMerging, SwinBlock, SwinUNetConfig

HEADS = 4
WIDTHS = (32, 64, 128)  # at strides 4, 8 and 16; 256 at 32
BLOCKS = 2
WINDOW = 7  # tokens a side; the tile has 224 pixels


class ReferenceNetwork(nn.Module):
    """The network. Shape: (B, 1, 224, 224) float32 to logits of the same shape."""

    def __init__(self) -> None:
        """Make random weights."""
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTHS[0], 4, stride=4)
        self.encoder = nn.ModuleList(stage(width) for width in WIDTHS)
        self.merges = nn.ModuleList(PatchMerging(width) for width in WIDTHS)
        self.bottleneck = stage(2 * WIDTHS[-1])
        self.expands = nn.ModuleList(Expanding(2 * width, 2, width) for width in WIDTHS)
        self.fuses = nn.ModuleList(nn.Linear(2 * width, width) for width in WIDTHS)
        self.decoder = nn.ModuleList(stage(width) for width in WIDTHS)
        self.to_pixels = Expanding(WIDTHS[0], 4, WIDTHS[0])
        self.logit = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Run as described in the class."""
        x = self.embed(image).permute(0, 2, 3, 1)  # B, H/4, W/4, C
        skips = []
        for blocks, merge in zip(self.encoder, self.merges, strict=True):
            x = blocks(x)
            skips.append(x)
            x = merge(x)
        x = self.bottleneck(x)  # B, H/32, W/32, 8C
        for level in reversed(range(len(skips))):
            x = self.fuses[level](torch.cat([self.expands[level](x), skips[level]], dim=-1))
            x = self.decoder[level](x)
        logits: Tensor = self.logit(self.to_pixels(x).permute(0, 3, 1, 2))
        return logits


class Expanding(nn.Module):
    """Multiply the resolution by `factor`: (B, H, W, wide) to (B, factor*H, factor*W, narrow)."""

    def __init__(self, wide: int, factor: int, narrow: int) -> None:
        """Make random weights."""
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(wide, factor * factor * narrow, bias=False)
        self.norm = nn.LayerNorm(narrow)

    def forward(self, x: Tensor) -> Tensor:
        """Run as described in the class."""
        batch, height, width, _ = x.shape
        x = self.expand(x).reshape(batch, height, width, self.factor, self.factor, -1)
        x = x.permute(0, 1, 3, 2, 4, 5)  # B, H, factor, W, factor, narrow
        finer: Tensor = self.norm(x.reshape(batch, self.factor * height, self.factor * width, -1))
        return finer


def stage(width: int) -> nn.Sequential:
    """Make two blocks, the second with shifted windows. Shape: (B, H, W, width) in and out."""
    config = SwinUNetConfig(head_width=width // HEADS, window=WINDOW)
    blocks = [SwinBlock(width, config, shifted=bool(index % 2)) for index in range(BLOCKS)]
    for block in blocks:
        grow, activate, shrink = block.mlp
        block.mlp = nn.Sequential(grow, nn.LayerNorm(grow.out_features), activate, shrink)
    return nn.Sequential(*blocks)
