"""Linear layers whose frozen kernel is held as codes, and made of them where it is used."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import nnx

from dpjax.models.config import Quantise
from dpjax.models.net.layers import Linear, lifted
from dpjax.models.net.weight_codes import decode, encode


class QuantisedParam(nnx.Param):
    """Codes of a kernel, or their scales: never trained."""


class QuantisedLinear(nnx.Module):
    """`y = x W + b` as `Linear`, W held as `codes` and `scales`; see `encode` for both.

    W is made of them in float32, cast to the dtype of x, used, and forgotten; the backward pass
    makes it again. So of all layers only the codes are in memory between both passes.

    Args:
        layer: what it computes, but for rounding.
        quantise: int8 or nf4.
    """

    def __init__(self, layer: Linear, quantise: Quantise) -> None:
        codes, scales = encode(layer.kernel[...], quantise)
        self.inputs = layer.kernel.shape[0]
        self.codes = QuantisedParam(codes)
        self.scales = QuantisedParam(scales)
        self.bias = layer.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., in)` to `(..., out)`."""
        y = self.product(x)
        return y if self.bias is None else y + lifted(self.bias[...].astype(x.dtype), y.ndim)

    def product(self, x: jax.Array) -> jax.Array:
        """`x W`, `(..., in)` to `(..., out)`."""
        return quantised_product(x, self.codes[...], self.scales[...], self.inputs)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """`(in, out)`, after the axis of layers where these are stacked."""
        *lead, _, outputs = self.codes.shape
        return (*lead, self.inputs, outputs)

    def full_kernel(self) -> jax.Array:
        """W, `(..., in, out)` float32."""
        return decode(self.codes[...], self.scales[...], self.inputs)

    def with_kernel(self, kernel: jax.Array) -> Linear:
        """Returns the layer with another kernel `(..., in, out)`, which is held in full."""
        has_bias = self.bias is not None
        layer = Linear(1, 1, bias=has_bias, stddev=0.0, rngs=nnx.Rngs(0))
        layer.kernel = nnx.Param(kernel)
        layer.bias = self.bias
        return layer


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def quantised_product(x: jax.Array, codes: jax.Array, scales: jax.Array, inputs: int) -> jax.Array:
    """Returns x W for the W that codes and scales stand for; they get no gradient.

    Args:
        x: `(..., in)`.
        codes: of W `(in, out)`, see `encode`.
        scales: likewise.
        inputs: of W.

    Returns:
        `(..., out)` in the dtype of x.

    Example:
        >>> import jax.numpy as jnp
        >>> from dpjax.models.net.quantised import quantised_product
        >>> from dpjax.models.net.weight_codes import encode
        >>> codes, scales = encode(jnp.array([[1.0, -1.0], [0.0, 0.5]]), "int8")
        >>> x = jnp.array([1.0, 2.0])
        >>> bool(abs(quantised_product(x, codes, scales, 2) - jnp.array([1.0, 0.0])).max() < 0.02)
        True
    """
    return x @ decode(codes, scales, inputs).astype(x.dtype)


def _forwards(
    x: jax.Array, codes: jax.Array, scales: jax.Array, inputs: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return quantised_product(x, codes, scales, inputs), (codes, scales)


def _backwards(
    inputs: int, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, None, None]:
    # Without it the compiler would find that W was made before, and keep it from the first pass.
    codes, scales, cotangent = jax.lax.optimization_barrier((*kept, cotangent))
    kernel = decode(codes, scales, inputs).astype(cotangent.dtype)
    return cotangent @ kernel.T, None, None


quantised_product.defvjp(_forwards, _backwards)


def quantised_layers(model: nnx.Module) -> dict[tuple[Any, ...], QuantisedLinear]:
    """The layers whose kernel is held as codes, by their paths."""
    return {path: node for path, node in nnx.iter_graph(model) if isinstance(node, QuantisedLinear)}
