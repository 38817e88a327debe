"""The same decoder in PyTorch, and its ordinary step.

The head has a table of its own: ghost clipping in Opacus 1.6 refuses a tied one. Norms have biases,
which its hooks ask for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def losses_of(model: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy of each sequence, `(B,)`."""
    logits = model(batch[:, :-1].contiguous())
    tokens = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1), reduction="none"
    )
    return tokens.reshape(len(batch), -1).mean(1)


def ordinary_step(model: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    """Returns the step without privacy."""

    def step() -> None:
        model.zero_grad()
        losses_of(model, batch).sum().backward()

    return step
