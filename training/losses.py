"""The losses of training; a pixel whose truth is unknown counts in none of them."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["bce", "bce_dice", "bce_lovasz"]


def loss_of(logits: Tensor, cells: Tensor, loss: Loss = "bce_dice", known: Tensor | None = None) -> Tensor:
    """Compute the binary cross-entropy, alone, plus soft Dice or plus the Lovász hinge.

    Shape: logits, cells and known (B, 1, H, W), the latter two 0 or 1; all is known if None; returns a
    scalar. Dice (Milletari et al. 2016, arXiv:1606.04797) covers the whole batch, so a crop without cells
    does not dominate it.
    """
    known = torch.ones_like(cells) if known is None else known
    entropies = functional.binary_cross_entropy_with_logits(logits, cells, reduction="none")
    entropy = (entropies * known).sum() / known.sum().clamp(min=1)
    if loss == "bce":
        return entropy
    if loss == "bce_lovasz":
        return entropy + lovasz_hinge(logits.flatten(1), cells.flatten(1), known.flatten(1))
    probability, cells = logits.sigmoid() * known, cells * known
    overlap = (probability * cells).sum()
    dice = (2 * overlap + 1) / (probability.sum() + cells.sum() + 1)
    return entropy + 1 - dice


def lovasz_hinge(logits: Tensor, cells: Tensor, known: Tensor | None = None) -> Tensor:
    """Compute a convex stand-in for 1 - IoU, mean over images (Berman et al. 2018, arXiv:1705.08790).

    Shape: logits, cells and known (B, pixels); returns a scalar. The hinge of each pixel is weighed by what
    the IoU loses when that pixel joins those that are worse. Unknown pixels come last and weigh nothing.
    """
    known = torch.ones_like(cells) if known is None else known
    errors = torch.where(known > 0, 1 - logits * (2 * cells - 1), -torch.inf)
    errors, order = errors.sort(dim=1, descending=True)
    cells, known = cells.gather(1, order), known.gather(1, order)
    cells, ground = cells * known, (1 - cells) * known
    total = cells.sum(1, keepdim=True)
    lost = 1 - (total - cells.cumsum(1)) / (total + ground.cumsum(1)).clamp(min=1)
    weights = lost.diff(dim=1, prepend=torch.zeros_like(total))
    return (functional.relu(errors) * weights).sum(1).mean()
