"""The same decoder in PyTorch, and its clipped-gradient step by Opacus, for comparison.

The head has a table of its own: ghost clipping in Opacus 1.6 refuses a tied one. Norms have biases,
which its hooks ask for. All steps return
after the clipped sum is in the gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import nn
from torch.nn import functional


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each after a normalisation."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = (nn.LayerNorm(size) for _ in range(2))
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.attention_out = nn.Linear(size, size, bias=False)
        self.up = nn.Linear(size, 4 * size, bias=False)
        self.down = nn.Linear(4 * size, size, bias=False)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """`(B, T, size)` to the same."""
        batch, length, size = h.shape
        parts = self.qkv(self.norm_1(h)).reshape(batch, length, 3, self.heads, size // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, size))
        return h + self.down(functional.gelu(self.up(self.norm_2(h)), approximate="tanh"))


class Decoder(nn.Module):
    """Logits of the next token, `(B, T, vocab)`, from `(B, T)` token ids."""

    def __init__(self, *, layers: int, size: int, vocab: int, length: int, head_size: int):
        super().__init__()
        self.table, self.positions = nn.Embedding(vocab, size), nn.Embedding(length, size)
        self.layers = nn.ModuleList(Layer(size, size // head_size) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, vocab, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`(B, T, vocab)` float32."""
        # Opacus views both ids as flat: neither may be a slice or an expansion.
        positions = torch.arange(ids.shape[1]).repeat(len(ids), 1)
        h = self.table(ids) + self.positions(positions)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h))


def opacus_steps(ids: np.ndarray, **sizes: int) -> dict[str, Callable[[], None]]:
    """The ordinary step of PyTorch, Opacus with per-example gradients, and its ghost clipping."""
    batch = torch.tensor(np.asarray(ids), dtype=torch.long)

    def make() -> Decoder:
        torch.manual_seed(0)
        return Decoder(**sizes)

    return {
        "torch non-private": _ordinary(make(), batch),
        "Opacus hooks": _hooks(make(), batch),
        "Opacus ghost": _ghost(make(), batch),
    }


def _losses(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch[:, :-1].contiguous())
    tokens = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1), reduction="none"
    )
    return tokens.reshape(len(batch), -1).mean(1)


def _ordinary(model: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        _losses(model, batch).sum().backward()

    return step


def _hooks(model: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    wrapped = GradSampleModule(model, loss_reduction="sum")

    def step() -> None:
        wrapped.zero_grad()
        _losses(wrapped, batch).sum().backward()
        per_example = [p.grad_sample for p in wrapped.parameters()]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in per_example]).norm(dim=0)
        factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)
        for p, g in zip(wrapped.parameters(), per_example, strict=True):
            p.grad = torch.einsum("i,i...->...", factors, g)
            p.grad_sample = None

    return step


def _ghost(model: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    wrapped = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.0)

    def step() -> None:
        wrapped.zero_grad()
        losses = _losses(wrapped, batch)
        DPTensorFastGradientClipping(wrapped, optimizer, losses, loss_reduction="sum").backward()

    return step
