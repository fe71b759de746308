"""Losses have known values, and unknown pixels do not count."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cytomask.training.losses import Loss, loss_of, lovasz_hinge


def half_cells() -> Tensor:
    cells = torch.zeros(2, 1, 8, 8)
    cells[..., :4] = 1
    return cells


def test_the_loss_of_perfect_logits_is_nearly_0() -> None:
    cells = half_cells()
    assert loss_of(40 * cells - 20, cells).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_of_undecided_logits_is_known() -> None:
    # Cross-entropy ln 2; Dice (2 * 32 + 1) / (64 + 64 + 1).
    undecided = torch.zeros(2, 1, 8, 8)
    assert loss_of(undecided, half_cells()).item() == pytest.approx(np.log(2) + 1 - 65 / 129)
    assert loss_of(undecided, half_cells(), "bce").item() == pytest.approx(np.log(2))


def test_the_loss_grows_from_right_over_undecided_to_wrong() -> None:
    cells = half_cells()
    losses = [loss_of(right * (2 * cells - 1), cells).item() for right in (20, 2, 0, -2, -20)]
    assert losses == sorted(losses)
    assert len(set(losses)) == len(losses)


def test_a_batch_without_cells_has_no_loss_where_none_are_found() -> None:
    nothing = torch.zeros(2, 1, 8, 8)
    assert loss_of(nothing - 20, nothing).item() == pytest.approx(0, abs=1e-5)


def lost(wrong: set[int], cells: set[int]) -> float:
    """Compute 1 - IoU of the mask with these pixels wrong."""
    mask = cells ^ wrong
    return 1 - len(cells & mask) / len(cells | mask)


def test_the_lovasz_hinge_weighs_each_pixel_by_what_the_iou_loses_with_it() -> None:
    cells, logits = {0, 1}, [0.3, -0.7, 0.4, -2.0]
    hinges = [0.7, 1.7, 1.4, 0.0]
    worst_first = sorted(range(4), key=lambda pixel: -hinges[pixel])
    expected = sum(
        hinges[pixel] * (lost({*worst_first[: at + 1]}, cells) - lost({*worst_first[:at]}, cells))
        for at, pixel in enumerate(worst_first)
    )
    truth = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert lovasz_hinge(torch.tensor([logits]), truth).item() == pytest.approx(expected)
    entropy = loss_of(torch.tensor([logits]), truth, "bce").item()
    both = loss_of(torch.tensor([[[logits]]]), truth[None, None], "bce_lovasz").item()
    assert both == pytest.approx(entropy + expected)


@pytest.mark.parametrize(("margin", "loss"), [(1, 0.0), (0, 1.0), (-1, 2.0)])
def test_the_lovasz_hinge_of_equal_margins_is_known(margin: float, loss: float) -> None:
    truth = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert lovasz_hinge(margin * (2 * truth - 1), truth).item() == pytest.approx(loss)


def test_the_lovasz_hinge_of_a_crop_without_cells_is_its_worst_pixel_s() -> None:
    logits = torch.tensor([[-3.0, 0.5, -0.5]])
    assert lovasz_hinge(logits, torch.zeros(1, 3)).item() == pytest.approx(1.5)


@pytest.mark.parametrize("loss", ["bce", "bce_dice", "bce_lovasz"])
def test_an_unknown_pixel_has_no_loss_and_no_gradient(loss: Loss) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 8, 8)
    cells, known = half_cells(), (torch.rand(2, 1, 8, 8) < 0.6).float()
    changed = torch.where(known > 0, logits, -50 * logits).requires_grad_()
    opposite = torch.where(known > 0, cells, 1 - cells)
    value = loss_of(changed, opposite, loss, known)
    assert value.item() == pytest.approx(loss_of(logits, cells, loss, known).item())
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert changed.grad is not None
    assert torch.all(changed.grad[known == 0] == 0)
    assert torch.any(changed.grad[known > 0] != 0)


@pytest.mark.parametrize("loss", ["bce", "bce_dice", "bce_lovasz"])
def test_a_batch_without_known_pixels_has_no_gradient(loss: Loss) -> None:
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    loss_of(logits, half_cells(), loss, torch.zeros(2, 1, 8, 8)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.all(logits.grad == 0)


def test_the_lovasz_hinge_of_the_known_pixels_is_that_of_a_smaller_crop() -> None:
    torch.manual_seed(0)
    logits, cells = torch.randn(1, 60), (torch.rand(1, 60) < 0.4).float()
    known = torch.arange(60)[None] < 35
    smaller = lovasz_hinge(logits[:, :35], cells[:, :35])
    assert lovasz_hinge(logits, cells, known.float()).item() == pytest.approx(smaller.item())
