"""Strategy matrices of correlated noise, as the few public numbers that define them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class BandedStrategy:
    """The strategy matrix of BandMF: banded, the same on every diagonal, its columns normalised.

    With T the lower triangular Toeplitz matrix of the coefficients, of one row for each step, and
    s_t the norm of its column t, the matrix is C = T diag(1 / s), and the noise C⁻¹Z.

    Source: Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization"; Toeplitz
    matrices: McKenna 2024, "Scaling up the Banded Matrix Factorization Mechanism".

    Attributes:
        coefs: the first column of T from the diagonal down, one for each band; the first above 0.
            Kept to float32. Public.

    Example:
        Half of the noise of a step is taken back in the next one.

        >>> strategy = BandedStrategy((1.0, 0.5))
        >>> strategy.toeplitz(num_steps=4).tolist()
        [1.0, 0.5, 0.0, 0.0]
        >>> strategy.num_bands(num_steps=4)
        2
    """

    coefs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the coefficients.

        Raises:
            ValueError: there is none, one is not finite, or the first is not above 0.
        """
        coefs = _as_float32(self.coefs)
        if not coefs or not np.all(np.isfinite(coefs)) or coefs[0] <= 0:
            raise ValueError(
                "coefs must be finite numbers of which the first is above 0, got "
                f"{_start_of(self.coefs)}"
            )
        object.__setattr__(self, "coefs", coefs)

    @classmethod
    def optimized(cls, num_steps: int, bands: int) -> BandedStrategy:
        """Finds the coefficients with the least mean squared error of all sums of gradients.

        `jax_privacy.matrix_factorization.toeplitz.optimize_banded_toeplitz` does it. Another
        version of it or of JAX, or another machine, may find slightly different ones: a run that
        goes on there must be given those that it began with.

        Args:
            num_steps: of the run.
            bands: how many steps lie between two uses of a unit, at least 1.

        Raises:
            ImportError: jax_privacy is not installed.
        """
        return _optimized_banded(num_steps, min(bands, num_steps))

    def num_bands(self, num_steps: int) -> int:
        """Returns how many bands the matrix of a run has."""
        return min(len(self.coefs), num_steps)

    def toeplitz(self, num_steps: int) -> np.ndarray:
        """Returns the first column of T, `(num_steps,)` float64."""
        column = np.zeros(num_steps)
        column[: self.num_bands(num_steps)] = self.coefs[:num_steps]
        return column

    def inverse(self) -> Any:
        """Makes T⁻¹ as a `jax_privacy` StreamingMatrix, whose state has a row less than bands.

        Raises:
            ImportError: jax_privacy is not installed.
        """
        inverse_of = matrix_factorization().toeplitz.inverse_as_streaming_matrix
        return inverse_of(np.asarray(self.coefs, np.float32))


@dataclasses.dataclass(frozen=True)
class BufferedStrategy:
    """The strategy matrix of a buffered linear Toeplitz mechanism (BLT), its columns normalised.

    As `BandedStrategy` with the coefficients 1 and Σᵢ ωᵢ θᵢᵏ⁻¹ for k = 1, 2, ...: the matrix has as
    many bands as steps, and its noise needs one buffer for each i. No unit may take part twice,
    which a `BandedDPSGD` with as many bands as steps accounts for.

    Source: Dvijotham et al. 2024, "Efficient and Near-Optimal Noise Generation for Streaming
    Differential Privacy"; McMahan et al. 2024, "A Hassle-free Algorithm for Private Learning in
    Practice".

    Attributes:
        buf_decay: θ, between 0 and 1, one for each buffer. Kept to float32. Public.
        output_scale: ω, as many. Kept to float32. Public.

    Example:
        >>> BufferedStrategy(buf_decay=(0.5,), output_scale=(0.25,)).toeplitz(num_steps=4).tolist()
        [1.0, 0.25, 0.125, 0.0625]
    """

    buf_decay: tuple[float, ...]
    output_scale: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: there is none, they differ in number, one is not finite, or a decay is out
                of range.
        """
        decay, scale = _as_float32(self.buf_decay), _as_float32(self.output_scale)
        if not decay or len(decay) != len(scale) or not np.all(np.isfinite(scale)):
            raise ValueError(
                "buf_decay and output_scale must be as many finite numbers, at least one, got "
                f"{_start_of(self.buf_decay)} and {_start_of(self.output_scale)}"
            )
        if not all(0 <= number <= 1 for number in decay):
            raise ValueError(f"buf_decay must be between 0 and 1, got {_start_of(self.buf_decay)}")
        object.__setattr__(self, "buf_decay", decay)
        object.__setattr__(self, "output_scale", scale)

    @classmethod
    def optimized(cls, num_steps: int, num_buffers: int | None = None) -> BufferedStrategy:
        """Finds number and parameters of buffers with the least error of the worst sum.

        `jax_privacy.matrix_factorization.buffered_toeplitz.optimize` does it, for units that take
        part once; as for `BandedStrategy.optimized`.

        Args:
            num_steps: of the run.
            num_buffers: how many. Default: as many as lower the error by a percent each, for which
                every number up to one more is tried.

        Raises:
            ImportError: jax_privacy is not installed.
        """
        return _optimized_buffered(num_steps, num_buffers)

    def num_bands(self, num_steps: int) -> int:
        """Returns how many bands the matrix of a run has: all of them."""
        return num_steps

    def toeplitz(self, num_steps: int) -> np.ndarray:
        """Returns the first column of T, `(num_steps,)` float64."""
        decay, scale = np.asarray(self.buf_decay), np.asarray(self.output_scale)
        powers = decay ** np.arange(num_steps - 1)[:, None]
        return np.concatenate([np.ones(1), powers @ scale])

    def inverse(self) -> Any:
        """Makes T⁻¹ as a `jax_privacy` StreamingMatrix, whose state has a row for each buffer.

        Raises:
            ImportError: jax_privacy is not installed.
        """
        build = matrix_factorization().buffered_toeplitz.BufferedToeplitz.build
        blt = build(self.buf_decay, self.output_scale, dtype=np.float32)
        return blt.inverse_as_streaming_matrix()


NoiseStrategy: TypeAlias = BandedStrategy | BufferedStrategy


def matrix_factorization() -> Any:
    """Imports `jax_privacy.matrix_factorization`, when correlated noise is first asked for.

    Raises:
        ImportError: jax_privacy is not installed.
    """
    try:
        from jax_privacy import matrix_factorization as found
    except ImportError as error:
        raise ImportError(
            "Noise that is correlated over steps is made by the package jax_privacy. Install it "
            'with pip install "dpjax[correlated]".'
        ) from error
    return found


@functools.cache
def _optimized_banded(num_steps: int, bands: int) -> BandedStrategy:
    found = matrix_factorization().toeplitz.optimize_banded_toeplitz(n=num_steps, bands=bands)
    return BandedStrategy(tuple(np.asarray(found).tolist()))


@functools.cache
def _optimized_buffered(num_steps: int, num_buffers: int | None) -> BufferedStrategy:
    optimize = matrix_factorization().buffered_toeplitz.optimize
    if num_buffers is None:
        found = optimize(n=num_steps, min_buffers=1)
    else:
        found = optimize(n=num_steps, min_buffers=num_buffers, max_buffers=num_buffers)
    decay, scale = np.asarray(found.buf_decay), np.asarray(found.output_scale)
    return BufferedStrategy(tuple(decay.tolist()), tuple(scale.tolist()))


def _as_float32(numbers: Sequence[float]) -> tuple[float, ...]:
    with np.errstate(over="ignore"):
        return tuple(float(np.float32(number)) for number in numbers)


def _start_of(numbers: Sequence[float]) -> str:
    shown = ", ".join(f"{number:g}" for number in numbers[:4])
    return f"({shown}, ...)" if len(numbers) > 4 else f"({shown})"
