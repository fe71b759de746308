"""The baseline to compare with: a convolutional U-Net of the Swin-UNet's size. It is never served."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cytomask.model.swin_unet import convolution


@dataclass(frozen=True)
class ConvUNetConfig:
    """Sizes of the network; the defaults have 3.0 M parameters."""

    widths: tuple[int, ...] = (12, 24, 48, 96, 192, 256)

    def as_dict(self) -> dict[str, Any]:
        """Return the sizes as plain values, as the checkpoint carries them."""
        return asdict(self)


class ConvUNet(nn.Module):
    """Two convolutions a level, after Ronneberger et al. 2015 (arXiv:1505.04597), with batch norm.

    Shape:
        input (B, 1, H, W) float32, H and W divisible by 32; output (B, 1, H, W) float32 logits.
    """

    def __init__(self, config: ConvUNetConfig | None = None) -> None:
        """Start from random weights of these sizes."""
        super().__init__()
        self.config = config or ConvUNetConfig()
        widths = self.config.widths
        self.encoder = nn.ModuleList(
            nn.Sequential(convolution(inputs, width), convolution(width, width))
            for inputs, width in zip((1, *widths[:-1]), widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(convolution(wide + width, width), convolution(width, width))
            for width, wide in pairwise(widths)
        )
        self.logit = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map tiles to logits; see the class."""
        x, skips = image, []
        for level, stage in enumerate(self.encoder):
            x = stage(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.decoder))):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = self.decoder[level](torch.cat([x, skips[level]], dim=1))
        logits: Tensor = self.logit(x)
        return logits
