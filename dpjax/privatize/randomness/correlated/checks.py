"""Whether a strategy matrix is the one that the accountant's mechanism is about."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import BandedDPSGD

from dpjax.privatize.randomness.correlated.strategies import NoiseStrategy

# Of a column norm in float64; and of draws of standard deviation 1 in float32.
_NORM_TOLERANCE, _STREAM_TOLERANCE = 1e-9, 1e-4
_PROBES = 4


def column_scales(strategy: NoiseStrategy, mechanism: BandedDPSGD) -> np.ndarray:
    """Returns by what the columns of T are divided, `(num_steps,)` float64.

    Args:
        strategy: gives the Toeplitz matrix T.
        mechanism: of the run; every column of C = T diag(1 / scales) has its `column_norm`.
    """
    squares = strategy.toeplitz(mechanism.num_steps) ** 2
    # Columns end with the run: the last ones are short.
    return np.sqrt(np.cumsum(squares))[::-1] / mechanism.column_norm


def check_strategy(strategy: NoiseStrategy, mechanism: BandedDPSGD, scales: np.ndarray) -> None:
    """Checks the strategy matrix C = T diag(1 / scales) that noise is about to be made with.

    That C has no more bands than the mechanism and no longer column, in float64; and that what
    multiplies by its inverse does so, on random vectors.

    Args:
        strategy: gives the Toeplitz matrix T and what multiplies by its inverse.
        mechanism: what the accountant counts.
        scales: `(num_steps,)` float64, which column t of T is divided by.

    Raises:
        ImportError: jax_privacy is not installed.
        ValueError: the matrix is another one than the mechanism's.
    """
    num_steps = mechanism.num_steps
    if num_steps == 0:
        return
    bands = strategy.num_bands(num_steps)
    if bands > mechanism.bands:
        raise ValueError(
            f"the strategy must have at most {mechanism.bands} bands, which the mechanism says, "
            f"got {bands}: a unit could take part twice within them. Take a strategy with fewer "
            f"bands, or a BandedDPSGD with bands={bands}"
        )
    column = strategy.toeplitz(num_steps)[:bands]
    longest = _longest_column(column, scales)
    if not longest <= mechanism.column_norm * (1 + _NORM_TOLERANCE):
        raise ValueError(
            f"the largest column norm of the strategy must be at most {mechanism.column_norm:g}, "
            f"which the mechanism says, got {longest:.9g}. Take a BandedDPSGD with a column_norm "
            "that is not smaller"
        )
    probes = np.random.default_rng(0).standard_normal((num_steps, _PROBES)).astype(np.float32)
    noise = np.asarray(_multiplied(strategy, probes), np.float64)
    # What grows beyond all bounds ends as no number, which is no error below any.
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.max(np.abs(_product(column, noise) - probes))
    if not error <= _STREAM_TOLERANCE:
        raise ValueError(
            "the inverse of the strategy matrix must be accurate to "
            f"{_STREAM_TOLERANCE:g} in float32, got an error of {error:.2g}. Take coefficients "
            "that fall more steeply, or a strategy made by optimized()"
        )


def _longest_column(column: np.ndarray, scales: np.ndarray) -> float:
    """The largest norm of a column of T diag(1 / scales); added up entry by entry."""
    squares = np.zeros(len(scales))
    for below, coef in enumerate(column):
        squares[: len(scales) - below] += (coef / scales[: len(scales) - below]) ** 2
    return float(np.sqrt(squares.max()))


def _product(column: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """T times vectors `(num_steps, m)`, float64."""
    product = np.zeros_like(vectors)
    for below, coef in enumerate(column):
        product[below:] += coef * vectors[: len(vectors) - below]
    return product


def _multiplied(strategy: NoiseStrategy, draws: np.ndarray) -> jax.Array:
    """T⁻¹ times vectors `(num_steps, m)`, one row after another as in a run."""
    matrix = strategy.inverse()

    def next_row(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        product, state = matrix.multiply_next(row, state)
        return state, product

    with jax.default_matmul_precision("highest"):
        start = matrix.init_multiply(jnp.zeros(_PROBES, jnp.float32))
        return jax.lax.scan(next_row, start, jnp.asarray(draws))[1]
