"""Matrices of rank r that change: back to rank r after a step, and gradients taken along."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpjax.models.adapters.tangent.product import frames


class Tangent(NamedTuple):
    """A change X Rᵀ + L Y of A B, in the frames of A and B.

    Attributes:
        x: `(in, r)`, orthogonal to L.
        y: `(r, out)`.
    """

    x: jax.Array
    y: jax.Array


class Factors(NamedTuple):
    """A `(in, r)` and B `(r, out)`."""

    a: jax.Array
    b: jax.Array


class Point(NamedTuple):
    """A B and its frames.

    Attributes:
        a: `(in, r)`.
        b: `(r, out)`.
        left: L `(in, r)`.
        right: R `(out, r)`.
    """

    a: jax.Array
    b: jax.Array
    left: jax.Array
    right: jax.Array

    @classmethod
    def of(cls, a: jax.Array, b: jax.Array) -> Point:
        """Returns the point with its frames."""
        return cls(a, b, *frames(a, b))

    def project(self, change: Tangent) -> Tangent:
        """Returns the change without what X has of L: noise has it, gradients do not."""
        return Tangent(_without(self.left, change.x), change.y)

    def move(self, change: Tangent) -> Factors:
        """Returns the factors of the best approximation of rank r of A B + X Rᵀ + L Y.

        They are balanced: Aᵀ A = B Bᵀ, both diagonal.
        """
        columns = jnp.concatenate([self.left, change.x], axis=1)
        y = (self.left.T @ self.a) @ self.b + change.y
        rows = jnp.concatenate([y.T, self.right], axis=1)
        q_columns, r_columns = jnp.linalg.qr(columns)
        q_rows, r_rows = jnp.linalg.qr(rows)
        u, sizes, vt = jnp.linalg.svd(r_columns @ r_rows.T, full_matrices=False)
        rank = self.a.shape[1]
        roots = jnp.sqrt(sizes[:rank])
        a = (q_columns @ u[:, :rank]) * roots
        return Factors(a, roots[:, None] * (vt[:rank] @ q_rows.T))

    def carry(self, change: Tangent, to: Point) -> Tangent:
        """Returns what a change here is at another point: its projection there."""
        y = (to.left.T @ change.x) @ self.right.T + (to.left.T @ self.left) @ change.y
        x = change.x @ (self.right.T @ to.right) + self.left @ (change.y @ to.right)
        return Tangent(_without(to.left, x), y)

    def turn(self, of_left: jax.Array, of_right: jax.Array, to: Point) -> tuple[jax.Array, ...]:
        """Returns two matrices `(r, r)` in the frames of another point, L first.

        The frames are turned onto each other as well as they can be; eigenvalues stay.
        """
        return _turned(of_left, self.left, to.left), _turned(of_right, self.right, to.right)


def _without(basis: jax.Array, columns: jax.Array) -> jax.Array:
    return columns - basis @ (basis.T @ columns)


def _turned(matrix: jax.Array, basis: jax.Array, to: jax.Array) -> jax.Array:
    u, _, vt = jnp.linalg.svd(basis.T @ to)
    turn = u @ vt
    return turn.T @ matrix @ turn
