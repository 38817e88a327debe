"""The smallest parts of a transformer: linear maps, embeddings, norms, activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.config import TransformerConfig

# Numbers `(..., r)` and rows of the vocabulary `(V, r)`: their products are added to logits.
Addition = tuple[jax.Array, jax.Array]


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Φ(x) = x (1 + erf(x / √2)) / 2 (Hendrycks and Gimpel 2016)."""
    # jax.nn.gelu goes through erfc, which costs twice as much in the forward pass on a CPU.
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "gelu": gelu,
        "gelu_tanh": partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "tanh": jnp.tanh,
    }
)


class Linear(nnx.Module):
    """`y = x W + b`, W `(in, out)` as `kernel`, b `(out,)` as `bias` or no bias.

    Computed in the dtype of x, whatever that of the parameters.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool, stddev: float, rngs: nnx.Rngs
    ) -> None:
        self.kernel = nnx.Param(stddev * jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., in)` to `(..., out)`."""
        y = self.product(x)
        return y if self.bias is None else y + lifted(self.bias[...].astype(x.dtype), y.ndim)

    def product(self, x: jax.Array) -> jax.Array:
        """`x W`, `(..., in)` to `(..., out)`."""
        return x @ self.kernel[...].astype(x.dtype)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """`(in, out)`, after the axis of layers where these are stacked."""
        return tuple(self.kernel.shape)

    def full_kernel(self) -> jax.Array:
        """W, `(..., in, out)` float32."""
        return self.kernel[...].astype(jnp.float32)

    def with_kernel(self, kernel: jax.Array) -> Linear:
        """Returns this layer, which has another kernel from here on, in the dtype of its own."""
        self.kernel[...] = kernel.astype(self.kernel.dtype)
        return self

    def addition(self, hidden: jax.Array) -> Addition | None:
        """What is added to products with the kernel where this is a language head: nothing."""
        del hidden
        return None


class Embedding(nnx.Module):
    """A table `(rows, size)` of vectors, as `embedding`."""

    def __init__(self, rows: int, size: int, *, stddev: float, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Param(stddev * jax.random.normal(rngs.params(), (rows, size)))

    def __call__(self, ids: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """`(...)` int32 to `(..., size)`."""
        return jnp.take(self.embedding[...], ids, axis=0).astype(dtype)

    def addition(self, hidden: jax.Array) -> Addition | None:
        """What is added to products with the table where this is a tied head: nothing."""
        del hidden
        return None


class Norm(nnx.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019), computed in float32.

    Parameters `scale` and, for LayerNorm, `bias`, of shape `(size,)`.
    """

    def __init__(self, size: int, config: TransformerConfig) -> None:
        self.kind = config.norm
        self.eps = config.norm_eps
        self.scale = nnx.Param(jnp.zeros(size) if self.kind == "rms_plus_one" else jnp.ones(size))
        self.bias = nnx.Param(jnp.zeros(size)) if self.kind == "layer" else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., size)` to the same shape and dtype."""
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            # The fast variance E[x²] − E[x]² cancels catastrophically in float32.
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        scale = lifted(self.scale[...].astype(jnp.float32), y.ndim)
        y = y * (1.0 + scale if self.kind == "rms_plus_one" else scale)
        if self.bias is not None:
            y = y + lifted(self.bias[...].astype(jnp.float32), y.ndim)
        return y.astype(x.dtype)


def lifted(vector: jax.Array, ndim: int) -> jax.Array:
    """A vector with the rank of what it is combined with: ranks are never promoted silently."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
