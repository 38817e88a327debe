"""Adapters of embeddings, and single rows of the token embedding that are trained."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.adapters.layers.linear import LoraParam
from dpjax.models.net.layers import Addition, Embedding


class LoraEmbedding(nnx.Module):
    """Rows of W + scaling * A B, with A `(rows, r)` and B `(r, size)`, both float32.

    A starts at zero and B is standard normal, as in peft. Where the table is a tied head too, the
    adapter belongs to both.

    Example:
        >>> base = Embedding(5, 4, stddev=0.02, rngs=nnx.Rngs(0))
        >>> adapted = LoraEmbedding(base, rank=2, scaling=2.0, key=jax.random.key(0))
        >>> bool((adapted(jnp.array([3, 1])) == base(jnp.array([3, 1]))).all())
        True
    """

    def __init__(self, base: Embedding, *, rank: int, scaling: float, key: jax.Array):
        rows, size = base.embedding.shape
        self.base = base
        self.scaling = scaling
        self.lora_embedding_a = LoraParam(jnp.zeros((rows, rank), jnp.float32))
        self.lora_embedding_b = LoraParam(draw_embedding_b(key, (rank, size)))

    @property
    def embedding(self) -> nnx.Param:
        """The table of the base."""
        return self.base.embedding

    def __call__(self, ids: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """`(...)` int32 to `(..., size)`."""
        rows = jnp.take(self.lora_embedding_a[...], ids, axis=0).astype(dtype)
        product = rows @ self.lora_embedding_b[...].astype(dtype)
        return self.base(ids, dtype) + self.scaling * product

    def addition(self, hidden: jax.Array) -> Addition:
        """What the adapter adds to products with the table where this is a tied head."""
        b = self.lora_embedding_b[...].astype(hidden.dtype)
        return self.scaling * (hidden @ b.T), self.lora_embedding_a[...]

    def merged(self) -> Embedding:
        """The embedding, its table now including the adapter."""
        product = (self.lora_embedding_a[...], self.lora_embedding_b[...])
        table = self.base.embedding[...]
        delta = jnp.matmul(*product, precision="highest")
        self.base.embedding[...] = (table + self.scaling * delta).astype(table.dtype)
        return self.base


class TokenNumbers(nnx.Variable):
    """Numbers of tokens, `(n,)` int32."""


class TokenRows(nnx.Module):
    """An embedding of which some rows, `(n, size)` float32, are trained, and no other.

    The rows start at those of the base. Where the table is a tied head too, they belong to both.

    Example:
        >>> base = Embedding(5, 4, stddev=0.02, rngs=nnx.Rngs(0))
        >>> trained = TokenRows(base, (3, 1))
        >>> trained.token_rows.shape
        (2, 4)
        >>> bool((trained(jnp.array([3, 2])) == base(jnp.array([3, 2]))).all())
        True
    """

    def __init__(self, base: Embedding, tokens: Sequence[int]):
        self.base = base
        self.token_numbers = TokenNumbers(jnp.asarray(tokens, jnp.int32))
        self.token_rows = LoraParam(rows_of(base.embedding[...], self.token_numbers[...]))

    @property
    def embedding(self) -> nnx.Param:
        """The table of the base."""
        return self.base.embedding

    def __call__(self, ids: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """`(...)` int32 to `(..., size)`."""
        is_token = ids[..., None] == self.token_numbers[...]
        own = is_token.astype(dtype) @ self.token_rows[...].astype(dtype)
        return jnp.where(jnp.any(is_token, axis=-1, keepdims=True), own, self.base(ids, dtype))

    def addition(self, hidden: jax.Array) -> Addition:
        """What the rows add to products with the table where this is a tied head."""
        table, numbers = self.base.embedding[...], self.token_numbers[...]
        change = self.token_rows[...] - rows_of(table, numbers)
        places = jnp.arange(table.shape[0])[:, None] == numbers
        return hidden @ change.astype(hidden.dtype).T, places.astype(hidden.dtype)

    def merged(self) -> Embedding:
        """The embedding, its table now including the rows."""
        table = self.base.embedding[...]
        rows = self.token_rows[...].astype(table.dtype)
        self.base.embedding[...] = table.at[self.token_numbers[...]].set(rows)
        return self.base


def draw_embedding_b(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal, `(r, size)` float32."""
    return jax.random.normal(key, shape, jnp.float32)


def rows_of(table: jax.Array, numbers: jax.Array) -> jax.Array:
    """The rows of a table with these numbers, `(n, size)` float32."""
    return jnp.take(table, numbers, axis=0).astype(jnp.float32)
