"""Clipped-gradient steps of Opacus: per-example gradients by hooks, and ghost clipping.

All return after the clipped sum is in the gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import nn

from benchmarks.support.torch_decoder import losses_of


def hooks_step(model: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    """Returns the step that keeps the gradient of each example."""
    wrapped = GradSampleModule(model, loss_reduction="sum")

    def step() -> None:
        wrapped.zero_grad()
        losses_of(wrapped, batch).sum().backward()
        per_example = [p.grad_sample for p in wrapped.parameters()]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in per_example]).norm(dim=0)
        factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)
        for p, g in zip(wrapped.parameters(), per_example, strict=True):
            p.grad = torch.einsum("i,i...->...", factors, g)
            p.grad_sample = None

    return step


def ghost_step(model: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    """Returns the step of two backward passes."""
    wrapped = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.0)

    def step() -> None:
        wrapped.zero_grad()
        losses = losses_of(wrapped, batch)
        DPTensorFastGradientClipping(wrapped, optimizer, losses, loss_reduction="sum").backward()

    return step
