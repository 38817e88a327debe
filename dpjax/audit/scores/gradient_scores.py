"""Scores from per-record gradients, for who sees the parameters. All are higher for members."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dpjax.basics.typing import LossFn, PyTree


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GradientStatistics:
    """What the gradients of N records say, one backward pass for each.

    Attributes:
        norms: (N,) floating point, the Euclidean norm over all parameters.
        products: (N,) floating point, ⟨gradient, update⟩; None if no update was given.

    Raises:
        ValueError: shapes differ, a number is not finite, or a norm is below 0.
    """

    norms: NDArray[np.floating]
    products: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        if self.norms.ndim != 1 or (self.norms < 0).any():
            raise ValueError("norms must have shape (N,) and be at least 0.")
        if self.products is not None and self.products.shape != self.norms.shape:
            raise ValueError(
                f"products must have shape {self.norms.shape}, as norms, got {self.products.shape}."
            )
        for name, values in (("norms", self.norms), ("products", self.products)):
            if values is not None and not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values))[0])
                raise ValueError(f"{name} must be finite, got {values[row]} for record {row}.")

    def __len__(self) -> int:
        return len(self.norms)


def gradient_statistics(
    loss: LossFn,
    params: PyTree,
    records: PyTree,
    *,
    update: PyTree | None = None,
    batch_size: int = 1,
) -> GradientStatistics:
    """Computes the norm of each record's gradient, and its inner product with an update.

    Args:
        loss: (params, record) -> scalar, of one record without an axis of records.
        params: the trained parameters, a pytree of floating-point arrays.
        records: a pytree of arrays with N records along the first axis.
        update: what was added to the parameters in training, such as tuned − initial; a pytree like
            `params`.
        batch_size: gradients in memory at a time.

    Raises:
        ValueError: the update does not have the structure and shapes of `params`, there is no
            record, or a result is not finite.

    Example:
        >>> def loss(w, x):
        ...     return (w @ x) ** 2 / 2
        >>> w, x = jnp.array([1.0, 0.0]), jnp.array([[3.0, 4.0], [0.0, 1.0]])
        >>> statistics = gradient_statistics(loss, w, x, update=jnp.array([-1.0, 0.0]))
        >>> statistics.norms.tolist(), statistics.products.tolist()
        ([15.0, 0.0], [-9.0, 0.0])
    """
    if not len(jax.tree.leaves(records)[0]):
        raise ValueError("records must hold at least 1 record, got 0.")
    if update is not None:
        _check_update(params, update)

    @jax.jit
    def measure(params: PyTree, records: PyTree, update: PyTree) -> tuple[jax.Array, jax.Array]:
        def measure_record(record: PyTree) -> tuple[jax.Array, jax.Array]:
            gradient = jax.grad(loss)(params, record)
            return jnp.sqrt(_inner(gradient, gradient)), _inner(gradient, update)

        return jax.lax.map(measure_record, records, batch_size=batch_size)

    given = params if update is None else update
    norms, products = map(np.asarray, measure(params, records, given))
    return GradientStatistics(norms=norms, products=None if update is None else products)


def gradient_norm_score(gradients: GradientStatistics) -> NDArray[np.float64]:
    """Scores records by −‖gradient‖: what was learnt asks for no further change.

    (Nasr, Shokri and Houmansadr 2019, arXiv:1812.00910.)

    Args:
        gradients: statistics of N records at the tuned parameters.

    Returns:
        (N,) float64, at most 0.

    Example:
        >>> gradient_norm_score(GradientStatistics(norms=np.array([2.0]))).tolist()
        [-2.0]
    """
    return -gradients.norms.astype(np.float64)


def gradient_update_score(gradients: GradientStatistics) -> NDArray[np.float64]:
    """Scores records by ⟨−gradient, update⟩: an update contains the descent of its members.

    For gradient canaries it is the test of Nasr et al. 2023 (arXiv:2302.07956).

    Args:
        gradients: statistics of N records, made with the update and at the parameters from before.

    Returns:
        (N,) float64.

    Raises:
        ValueError: the statistics were made without an update.
    """
    if gradients.products is None:
        raise ValueError(
            "gradients must hold products, got None. Give gradient_statistics the update."
        )
    return -gradients.products.astype(np.float64)


def _inner(left: PyTree, right: PyTree) -> jax.Array:
    terms = jax.tree.map(
        lambda a, b: jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32)), left, right
    )
    return sum(jax.tree.leaves(terms), jnp.float32(0))


def _check_update(params: PyTree, update: PyTree) -> None:
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, update):
        raise ValueError("update must have the structure and the shapes of params, got others.")
