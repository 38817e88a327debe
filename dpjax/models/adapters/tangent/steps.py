"""Steps of adapters in the tangent space: optimizers that do not see how A B is split."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.models.adapters.tangent.geometry import Point, Tangent

if TYPE_CHECKING:
    import optax

Rule = Literal["sgd", "adam", "adam-bc"]
_B1, _B2, _EPSILON = 0.9, 0.999, 1e-8
# As in DP-AdamBC: what the squares count as at least when the variance of the noise is taken off.
_LEAST_SQUARE = 5e-8


class Moments(NamedTuple):
    """What is kept of the gradients of one adapter, in the frames of its A and B.

    Attributes:
        mean: of gradients, a running one.
        square_x: `(r, r)`, a running mean of Xᵀ X / (in − r).
        square_y: `(r, r)`, a running mean of Y Yᵀ / out.
    """

    mean: Tangent
    square_x: jax.Array
    square_y: jax.Array


class TangentState(NamedTuple):
    """What `tangent_lora` keeps.

    Attributes:
        step: int32, how many were done.
        moments: of every adapter, by its path.
        others: the state of the optimizer of everything else.
    """

    step: jax.Array
    moments: dict[str, Moments]
    others: Any


def tangent_lora(
    others: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    *,
    rule: Rule = "sgd",
    momentum: float = 0.9,
    noise_stddev: float = 0.0,
) -> optax.GradientTransformation:
    """Makes steps of adapters in the tangent space of A B, and other steps with an optimizer.

    The gradients are those of `tangent_product`: X and Y in the places of A and B. A B moves along
    −(U Rᵀ + L W), and the best approximation of rank r is the next A B. With running means
    M = (M_X, M_Y) of the gradients and squares V, the direction (U, W) is

        sgd       Σₛ μᵗ⁻ˢ (Xₛ, Yₛ)
        adam      (M̂_X V̂_X^-½, V̂_Y^-½ M̂_Y)
        adam-bc   likewise with max(V̂ − Φ, γ′), where Φ = (σC / B)², the variance of the noise.

    V_X and V_Y are `(r, r)`: they weigh directions and not entries, so every step depends on A B
    alone. Means are carried to the tangent space of each new A B by projection, and squares are
    turned with its frames. All of it is computed from private gradients and costs no ε.

    The idea and the squares of r × r numbers are those of PRISM (Wang and Zhang 2026,
    arXiv:2606.00944), which keeps them in the coordinates of A and B. In orthonormal ones noise is
    equal in all directions, so that one number is its variance.

    Args:
        others: for all leaves but `lora_a` and `lora_b` that stand beside each other.
        learning_rate: η of a step, counted from 0.
        rule: how gradients become a direction.
        momentum: μ, with `sgd`.
        noise_stddev: σC / B per coordinate, with `adam-bc`.

    Returns:
        An optax transformation, whose update needs the parameters.

    Example:
        >>> import optax
        >>> adapter = {"lora_a": jnp.eye(4, 1), "lora_b": jnp.zeros((1, 3))}
        >>> optimizer = tangent_lora(optax.sgd(1.0), lambda step: 1.0, momentum=0.0)
        >>> gradient = {"lora_a": jnp.zeros((4, 1)), "lora_b": -jnp.ones((1, 3))}
        >>> updates, _ = optimizer.update(gradient, optimizer.init(adapter), adapter)
        >>> moved = optax.apply_updates(adapter, updates)
        >>> (moved["lora_a"] @ moved["lora_b"])[0].round(4).tolist()
        [1.0, 1.0, 1.0]
    """
    import optax

    rest = optax.masked(others, _are_others)

    def init(params: PyTree) -> TangentState:
        moments = {
            name: _stacked(_no_moments, pair["lora_a"].ndim)(pair["lora_a"], pair["lora_b"])
            for name, pair in _adapters(params).items()
        }
        return TangentState(jnp.zeros((), jnp.int32), moments, rest.init(params))

    def update(
        grads: PyTree, state: TangentState, params: Any = None
    ) -> tuple[PyTree, TangentState]:
        updates, others_state = rest.update(grads, state.others, params)
        made = functools.partial(
            _step,
            rule=rule,
            momentum=momentum,
            variance=noise_stddev**2,
            step=state.step + 1,
            rate=learning_rate(state.step),
        )
        gradients = _adapters(grads)
        moments: dict[str, Moments] = {}
        changes: dict[str, dict[str, jax.Array]] = {}
        for name, pair in _adapters(params).items():
            a, b = pair["lora_a"], pair["lora_b"]
            gradient = Tangent(gradients[name]["lora_a"], gradients[name]["lora_b"])
            # A shorter product than that of float32 would take the frames out of square.
            with jax.default_matmul_precision("highest"):
                change, moments[name] = _stacked(made, a.ndim)(a, b, gradient, state.moments[name])
            changes[name] = {"lora_a": change.x, "lora_b": change.y}
        updates = _with_adapters(updates, changes)
        return updates, TangentState(state.step + 1, moments, others_state)

    return optax.GradientTransformation(init, update)


def _no_moments(a: jax.Array, b: jax.Array) -> Moments:
    # An array of its own for each: a compiled step takes over the buffers of all.
    squares = (jnp.zeros((a.shape[1], a.shape[1]), jnp.float32) for _ in range(2))
    return Moments(Tangent(jnp.zeros_like(a), jnp.zeros_like(b)), *squares)


def _step(
    a: jax.Array,
    b: jax.Array,
    gradient: Tangent,
    moments: Moments,
    *,
    rule: Rule,
    momentum: float,
    variance: float,
    step: jax.Array,
    rate: jax.Array,
) -> tuple[Tangent, Moments]:
    """Returns what is added to A and B, and the moments in the frames of the new ones."""
    here = Point.of(a, b)
    gradient = here.project(gradient)
    if rule == "sgd":
        mean = jax.tree.map(lambda m, g: momentum * m + g, moments.mean, gradient)
        squares, direction = (moments.square_y, moments.square_x), mean
    else:
        mean = jax.tree.map(lambda m, g: _B1 * m + (1 - _B1) * g, moments.mean, gradient)
        squares = _running_squares(gradient, moments)
        least = (variance, _LEAST_SQUARE) if rule == "adam-bc" else (0.0, 0.0)
        by_y, by_x = (_inverse_root(s / (1 - _B2**step), *least) for s in squares)
        scale = 1 / (1 - _B1**step)
        direction = Tangent(scale * (mean.x @ by_x), scale * (by_y @ mean.y))
    moved = here.move(jax.tree.map(lambda u: -rate * u, direction))
    change = Tangent(moved.a - a, moved.b - b)
    # As the loop computes it: another rounding may turn the sign of a column of a frame.
    there = Point.of(a + change.x, b + change.y)
    square_y, square_x = here.turn(*squares, to=there)
    return change, Moments(here.carry(mean, there), square_x, square_y)


def _running_squares(gradient: Tangent, moments: Moments) -> tuple[jax.Array, jax.Array]:
    """Those of Y, in the frame L, and of X, in the frame R."""
    # X is orthogonal to L: so many of its rows' numbers are free.
    free = max(1, gradient.x.shape[0] - gradient.x.shape[1])
    square_y = gradient.y @ gradient.y.T / gradient.y.shape[1]
    square_x = gradient.x.T @ gradient.x / free
    return (
        _B2 * moments.square_y + (1 - _B2) * square_y,
        _B2 * moments.square_x + (1 - _B2) * square_x,
    )


def _inverse_root(square: jax.Array, variance: float, least: float) -> jax.Array:
    values, vectors = jnp.linalg.eigh(square)
    roots = jnp.sqrt(jnp.maximum(values - variance, least)) + (0.0 if least else _EPSILON)
    return (vectors / roots) @ vectors.T


def _stacked(function: Callable[..., Any], ndim: int) -> Callable[..., Any]:
    """The function of matrices for arrays with further axes in front, those of stacked layers."""
    for _ in range(ndim - 2):
        function = jax.vmap(function)
    return function


def _adapters(tree: PyTree, path: tuple[Any, ...] = ()) -> dict[str, dict[str, jax.Array]]:
    """The adapters in a nested dict, by path."""
    if not isinstance(tree, dict):
        return {}
    if _is_adapter(tree):
        return {".".join(map(str, path)): tree}
    found: dict[str, dict[str, jax.Array]] = {}
    for name, part in tree.items():
        found |= _adapters(part, (*path, name))
    return found


def _with_adapters(tree: PyTree, changes: dict[str, Any], path: tuple[Any, ...] = ()) -> PyTree:
    """The nested dict with the leaves of its adapters exchanged."""
    if not isinstance(tree, dict):
        return tree
    if _is_adapter(tree):
        return tree | changes[".".join(map(str, path))]
    return {name: _with_adapters(part, changes, (*path, name)) for name, part in tree.items()}


def _is_adapter(tree: dict[Any, Any]) -> bool:
    return {"lora_a", "lora_b"} <= tree.keys()


def _are_others(tree: PyTree) -> PyTree:
    """True for leaves that belong to no adapter."""
    if not isinstance(tree, dict):
        return True
    if _is_adapter(tree):
        return {name: name not in ("lora_a", "lora_b") for name in tree}
    return {name: _are_others(part) for name, part in tree.items()}
