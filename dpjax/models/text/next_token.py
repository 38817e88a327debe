"""The choice of the next token from its logits."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How tokens are drawn: the key or keys, temperature and top_p as float32 scalars."""

    key: jax.Array
    temperature: jax.Array
    top_p: jax.Array | None

    @property
    def has_key_per_row(self) -> bool:
        """Whether each row has a key of its own; a key of raw numbers is one key."""
        return jnp.issubdtype(self.key.dtype, jax.dtypes.prng_key) and self.key.ndim == 1


def parse_sampling(
    key: jax.Array | None, temperature: float | None, top_k: int | None, top_p: float | None
) -> Sampling | None:
    """The settings checked; None for greedy decoding.

    Raises:
        ValueError: for a setting outside its range, or sampling without a key.
    """
    if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
        raise ValueError(f"top_k must be a whole number of at least 1, got {top_k!r}; None is all")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p!r}")
    if temperature is None or temperature == 0:
        return None
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"temperature must be a finite number of at least 0, got {temperature!r}; 0 or None is "
            "greedy"
        )
    if key is None:
        raise ValueError(
            f"sampling at temperature {temperature} needs a key: pass key=jax.random.key(seed), or "
            "temperature=None for greedy decoding"
        )
    # Every probability counts under top_p = 1: nothing is to be sorted.
    cut = None if top_p is None or top_p == 1 else jnp.float32(top_p)
    return Sampling(key, jnp.float32(temperature), cut)


def sample_tokens(
    logits: jax.Array,
    key: jax.Array,
    temperature: jax.Array,
    top_k: int | None,
    top_p: jax.Array | None,
) -> jax.Array:
    """Tokens `(...)` int32, drawn from softmax(logits / temperature), logits `(..., V)` float32.

    With `top_k` only the k most probable can be drawn (Fan et al. 2018, arXiv:1805.04833); with
    `top_p` only the most probable whose probabilities together first reach p, so at least one
    (Holtzman et al. 2020, arXiv:1904.09751). With both, p is a share of what the k have. Among
    equals the lower numbers count as the more probable.
    """
    scaled = logits / temperature
    if top_k is None and top_p is None:
        return jax.random.categorical(key, scaled).astype(jnp.int32)
    vocab_size = logits.shape[-1]
    kept, tokens = jax.lax.top_k(scaled, min(top_k or vocab_size, vocab_size))
    if top_p is not None:
        probabilities = jax.nn.softmax(kept)
        more_probable = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = jnp.where(more_probable < top_p, kept, -jnp.inf)
    place = jax.random.categorical(key, kept)
    return jnp.take_along_axis(tokens, place[..., None], axis=-1)[..., 0].astype(jnp.int32)
