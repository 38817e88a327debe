"""The clipped-gradient step of opake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from opake.dpsgd.clipping import clipped_grad
from torch import nn

from benchmarks.support.torch_decoder import losses_of


def opake_step(model: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    """Returns the step; the clipped sum is not kept."""
    params = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(params: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        # An example, with or without an axis of one.
        ids = ids.reshape(1, -1)

        def call(inputs: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(model, params, (inputs,))

        return losses_of(call, ids)[0]

    clipped, state = clipped_grad(loss, clipping_norm=1.0, batch_argnums=1)

    def step() -> None:
        clipped(params, batch, state=state)

    return step
