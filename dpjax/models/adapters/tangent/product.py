"""The product x A B, whose derivatives do not depend on how A B is split into A and B.

All A S, S⁻¹ B are the same update A B. But gradients with respect to A and B grow and shrink with
S, and with them what a clip norm cuts off and what noise does to A B. Here the derivatives are
coordinates of the change of A B itself. With L `(in, r)` an orthonormal basis of the columns of A
and R `(out, r)` one of the rows of B, the changes of a matrix of rank r are

    X Rᵀ + L Y,    X `(in, r)` with Lᵀ X = 0,    Y `(r, out)`,

and ‖X Rᵀ + L Y‖² = ‖X‖² + ‖Y‖². The derivative "with respect to A" is that of X, and the one "with
respect to B" is that of Y. Clipping and noise of the ordinary kind then bound and perturb the
change of A B: the mechanism of PRISM (Wang and Zhang 2026, "PRISM: Gauge-Invariant Tangent-Space
Differentially Private LoRA", arXiv:2606.00944).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Far below the rounding of any entry of a factor that was ever trained.
_TINY = 1e-12


def frames(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns L and R: orthonormal bases of the columns of A and of the rows of B.

    A fresh B is zero and spans nothing: R is then a random basis, the same in every run.

    Args:
        a: `(in, r)` float32, r at most in.
        b: `(r, out)` float32, r at most out.

    Returns:
        `(in, r)` and `(out, r)` float32.
    """
    return _basis(a, 0), _basis(b.T, 1)


def _basis(matrix: jax.Array, number: int) -> jax.Array:
    # The key hides nothing: the basis must be the same for every record, step and run.
    drawn = jax.random.normal(jax.random.key(number), matrix.shape, jnp.float32)
    basis, triangle = jnp.linalg.qr(matrix + _TINY * drawn)
    # With these signs a basis changes no more than the matrix does: that of Gram and Schmidt.
    return jnp.where(jnp.diagonal(triangle) < 0, -basis, basis)


@jax.custom_jvp
def tangent_product(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns x A B; its derivatives with respect to A and B are those of X and Y, at zero.

    They are not the gradients of A and B: what trains with them makes its steps as `tangent_lora`.

    Args:
        x: `(..., in)`.
        a: `(in, r)` float32.
        b: `(r, out)` float32.

    Returns:
        `(..., out)` in the dtype of x.

    Example:
        >>> a, b = jnp.array([[2.0], [0.0]]), jnp.array([[0.0, 0.5]])
        >>> x = jnp.array([1.0, 3.0])
        >>> jax.grad(lambda a: tangent_product(x, a, b)[1])(a).ravel().tolist()
        [0.0, 3.0]
    """
    return x @ a.astype(x.dtype) @ b.astype(x.dtype)


@tangent_product.defjvp
def _tangent_product_jvp(
    primals: tuple[jax.Array, jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    x, a, b = primals
    dx, dx_coordinates, dy_coordinates = (tangent.astype(x.dtype) for tangent in tangents)
    left, right = (basis.astype(x.dtype) for basis in frames(a, b))
    seen = x @ left
    unseen = x - seen @ left.T
    change = (unseen @ dx_coordinates) @ right.T + seen @ dy_coordinates
    return tangent_product(x, a, b), tangent_product(dx, a, b) + change
