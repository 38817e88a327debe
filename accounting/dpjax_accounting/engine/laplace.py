"""The pair of output distributions that dominates a Poisson-sampled number with Laplace noise."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

from dpjax_accounting.engine.pairs import Array

# Panels halve towards both ends of the outputs that differ, so that powers of the likelihood ratio
# are integrated to 13 digits on each of them, or count for nothing.
_HALVINGS = 24
_NODES_OF_PANEL = 20
# P's mass further from its centre than this many scales, 0.1 %, does not make the grid coarser.
_BULK = 7.0
# Relative: what is called the largest loss is not below it.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class LaplacePair:
    """(1 − q) L(0, b) + q L(1, b) against L(0, b), or L(0, b) against its mirror image.

    L(m, b) has the density exp(−|z − m| / b) / 2b. log P/Q grows with the output z between 0 and 1
    (between −1 and 0 in the second case), and is constant outside: both ends are atoms of the loss.

    Attributes:
        probability: q, above 0 and at most 1.
        scale: b / sensitivity, above 0.
        is_present: whether P is the mixture, the output with the unit; otherwise Q is.
    """

    probability: float
    scale: float
    is_present: bool

    # Of an output beyond which the loss is constant, there is no need to cut anything off.
    outputs = (-math.inf, math.inf)
    is_gaussian = False

    @property
    def distance(self) -> float:
        """The sensitivity in units of the scale: the largest loss without sampling."""
        return 1 / self.scale

    @property
    def total_variation(self) -> float:
        """The hockey stick at ε = 0."""
        return -self.probability * math.expm1(-0.5 / self.scale)

    def loss(self, z: Array) -> Array:
        """Returns log P(z)/Q(z)."""
        position = z if self.is_present else -z
        # log L(1)/L(0)
        ratio = np.clip(2 * position - 1, -1, 1) / self.scale
        loss: Array = np.log1p(self.probability * np.expm1(ratio))
        return loss if self.is_present else -loss

    def inverse(self, losses: Array) -> Array:
        """Returns the outputs whose loss is `losses`, which must lie inside the range."""
        signed = losses if self.is_present else -losses
        with np.errstate(divide="ignore"):
            ratio = np.log1p(np.maximum(np.expm1(signed) / self.probability, -1.0))
        position: Array = np.clip((self.scale * ratio + 1) / 2, 0.0, 1.0)
        return position if self.is_present else -position

    def masses(self, edges: Array) -> tuple[Array, Array]:
        """Returns the probability under P and under Q between every two successive `edges`."""
        absent = _masses(edges / self.scale)
        there = 1.0 if self.is_present else -1.0
        present = (1 - self.probability) * absent
        present += self.probability * _masses((edges - there) / self.scale)
        return (present, absent) if self.is_present else (absent, present)

    def beyond(self, z: float) -> float:
        """Returns P's mass above `z`."""
        return float(self.masses(np.array([z, math.inf]))[0][0])

    def nodes(self, order: float) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Returns log-weights w and losses: Σ exp(w + t·loss) = E_P[exp(t·loss)] for t ≥ 0.

        The third array tells which of them lie in the bulk of P.
        """
        del order
        there = 1.0 if self.is_present else -1.0
        start, end = min(0.0, there), max(0.0, there)
        positions, widths = _panels()
        z, q = start + positions, self.probability
        if self.is_present:
            density = np.logaddexp(
                _log(1 - q) - np.abs(z) / self.scale, _log(q) - np.abs(z - 1) / self.scale
            )
        else:
            density = -np.abs(z) / self.scale
        inner = density - math.log(2 * self.scale) + np.log(widths)
        below = float(self.masses(np.array([-math.inf, start]))[0][0])
        ends = self.loss(np.array([start, end])) * np.array([1.0, 1 + _ROUNDING])
        log_weights = np.concatenate([[_log(below)], inner, [_log(self.beyond(end))]])
        losses = np.concatenate([ends[:1], self.loss(z), ends[1:]])
        centre = 1.0 if self.is_present and q == 1 else 0.0
        bulk = np.concatenate([[start], z, [end]]) <= centre + _BULK * self.scale
        return log_weights, losses, bulk


@functools.cache
def _panels() -> tuple[Array, Array]:
    """Returns positions from 0 to 1 and their weights, by Gauss and Legendre on each panel."""
    halves = 0.5 ** np.arange(_HALVINGS, 0, -1)
    edges = np.concatenate([[0.0], halves, 1 - halves[-2::-1], [1.0]])
    points, weights = np.polynomial.legendre.leggauss(_NODES_OF_PANEL)
    width = np.diff(edges)[:, None]
    positions = edges[:-1, None] + width * (points + 1) / 2
    return positions.ravel(), (width * weights / 2).ravel()


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _masses(edges: Array) -> Array:
    """Of L(0, 1) between successive edges, from the smaller tail, which keeps the digits."""
    tail = np.exp(-np.abs(edges)) / 2
    left, right = tail[:-1], tail[1:]
    is_across = (edges[:-1] < 0) & (edges[1:] > 0)
    masses: Array = np.where(is_across, 1 - left - right, np.abs(left - right))
    return masses
