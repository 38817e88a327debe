"""Matrix products whose result is float32 and whose operands are not rounded on the way."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST


def product(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """`einsum` of two arrays, added up in float32.

    Float32 operands are multiplied in full precision, where the default of an accelerator would
    round them. Two bfloat16 or two float16 go in as they are (their products are exact in
    float32), except on CPU, where XLA has no kernel for some of these products. Other formats, such
    as float8, are converted first.
    """
    einsum = partial(jnp.einsum, subscripts, precision=_EXACT, preferred_element_type=jnp.float32)
    if left.dtype != right.dtype or left.dtype not in (jnp.bfloat16, jnp.float16):
        return einsum(left.astype(jnp.float32), right.astype(jnp.float32))
    return jax.lax.platform_dependent(
        left,
        right,
        cpu=lambda x, y: einsum(x.astype(jnp.float32), y.astype(jnp.float32)),
        default=einsum,
    )
