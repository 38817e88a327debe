"""Clipping rules: from the norms of an example's gradient to the factors it is multiplied with.

A rule bounds what one example contributes to the sum. Each parameter belongs to one of K groups;
a rule sees the `(B, K)` norms of the groups and answers with `(B, K)` factors. All strategies use
rules through `scale`, so that a rule means the same whatever computes the norms and the sums.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.option_checks import did_you_mean
from dpjax.basics.typing import PyTree, Scalar
from dpjax.privatize.float32.scaling import hypot

# One part in 2¹⁹ ≈ 1.9e-6: many times the rounding error of a float32 factor and product. Norms are
# enlarged by what rounding can do to them (`scaling.enlarged`).
ROUNDING_MARGIN = 2.0**-19


class ClippingRule:
    """What `clipped_grad` takes as `rule`: all parameters are one group unless a rule says else.

    Attributes:
        clip_norm: C, the most that the gradient of one example may contribute, in L2 norm over all
            parameters; a number or a float32 scalar.
        group_names: the K groups of a rule that has several, in the order of the columns of
            `ClippedGrad.group_norms`; else None.
    """

    clip_norm: Scalar
    group_names: tuple[str, ...] | None = None

    def leaf_groups(self, paths: Sequence[str]) -> tuple[int, ...]:
        """The group, in [0, K), of each parameter, by its path."""
        return (0,) * len(paths)

    def factors(self, group_norms: jax.Array) -> jax.Array:
        """`(B, K)` float32 factors, at least 0, from `(B, K)` float32 norms."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class FlatClipping(ClippingRule):
    """min(1, C/‖g‖₂), the norm taken over all parameters together.

    Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", Algorithm 1.

    Attributes:
        clip_norm: C > 0. A scalar array, traced or not, is taken too, for a clip norm that changes
            from step to step without a new compilation; a traced value is not checked.

    Raises:
        TypeError: the clip norm is not a number, nor a floating-point scalar array.
        ValueError: it is not positive and finite.

    Example:
        >>> FlatClipping(2.0).factors(jnp.array([[1.0], [8.0]])).round(3).tolist()
        [[1.0], [0.25]]
    """

    clip_norm: Scalar

    def __post_init__(self) -> None:
        _check_positive("clip_norm", self.clip_norm)

    def factors(self, group_norms: jax.Array) -> jax.Array:
        """min(1, C/‖g‖) with the rounding margin."""
        return _shrink_to(_bound(self.clip_norm), group_norms)


@dataclasses.dataclass(frozen=True)
class AutomaticClipping(ClippingRule):
    """C / (‖g‖₂ + γ): every gradient is normalised, so that C only scales the learning rate.

    Small gradients are enlarged, up to C/γ times; every contribution stays below C.

    Source: Bu et al. 2023, "Automatic Clipping", arXiv:2206.07136, AUTO-S.

    Attributes:
        clip_norm: C > 0, as for `FlatClipping`.
        stability: γ > 0, in units of the gradient's norm.

    Raises:
        TypeError: an attribute is not a number, nor a floating-point scalar array.
        ValueError: it is not positive and finite.

    Example:
        >>> rule = AutomaticClipping(clip_norm=1.0, stability=0.25)
        >>> rule.factors(jnp.array([[0.25], [3.75]])).round(3).tolist()
        [[2.0], [0.25]]
    """

    clip_norm: Scalar = 1.0
    stability: Scalar = 0.01

    def __post_init__(self) -> None:
        _check_positive("clip_norm", self.clip_norm)
        _check_positive("stability", self.stability)

    def factors(self, group_norms: jax.Array) -> jax.Array:
        """C / (‖g‖ + γ) with the rounding margin."""
        # A stability below the smallest float32 would leave 0/0 for a gradient that is zero.
        stability = jnp.maximum(jnp.asarray(self.stability, jnp.float32), _TINY)
        # For gradients near zero C/γ may exceed float32; a smaller factor is always allowed.
        return jnp.minimum(_bound(self.clip_norm) / (group_norms + stability), _LARGEST)


@dataclasses.dataclass(frozen=True)
class PerGroupClipping(ClippingRule):
    """min(1, C_k/‖g_k‖₂) for the part g_k of the gradient that belongs to group k.

    An example contributes at most √ΣC_k² over all parameters together: that is `clip_norm`, which
    the noise of *all* coordinates is proportional to. With one group per layer this is the
    per-layer clipping of McMahan et al. 2018, "Learning Differentially Private Recurrent Language
    Models", arXiv:1710.06963.

    Attributes:
        group_of: the name of a parameter's group, from its path: keys joined with dots, such as
            "encoder.layers.0.kernel".
        clip_norms: C_k > 0 by group name, as for `FlatClipping`.

    Raises:
        TypeError: `group_of` cannot be called, or a clip norm is not a number, nor a floating-point
            scalar array.
        ValueError: there are no groups, or a clip norm is not positive and finite.

    Example:
        >>> rule = PerGroupClipping(lambda path: path.split(".")[0], {"body": 3.0, "head": 4.0})
        >>> rule.leaf_groups(["body.w", "body.b", "head.w"]), rule.clip_norm
        ((0, 0, 1), 5.0)
    """

    group_of: Callable[[str], str]
    clip_norms: Mapping[str, Scalar]

    def __post_init__(self) -> None:
        if not callable(self.group_of):
            raise TypeError(f"group_of must be a function of a path, got {self.group_of!r}")
        if not isinstance(self.clip_norms, Mapping):
            raise TypeError(
                f"clip_norms must map group names to clip norms, got {self.clip_norms!r}"
            )
        # A copy: what the caller does to its own afterwards would change the sums or the noise.
        object.__setattr__(self, "clip_norms", dict(self.clip_norms))
        if not self.clip_norms:
            raise ValueError("clip_norms is empty: every group needs its clip norm")
        for name, value in self.clip_norms.items():
            _check_positive(f"clip_norms[{name!r}]", value)

    @property
    def clip_norm(self) -> Scalar:  # type: ignore[override]
        """√ΣC_k²: a float, or a float32 scalar if any C_k is an array."""
        values = self.clip_norms.values()
        if any(isinstance(value, jax.Array) for value in values):
            return hypot([jnp.asarray(value, jnp.float32) for value in values])
        return math.hypot(*map(float, values))

    @property
    def group_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """In the order of `clip_norms`."""
        return tuple(self.clip_norms)

    def leaf_groups(self, paths: Sequence[str]) -> tuple[int, ...]:
        """The index of each parameter's group.

        Raises:
            ValueError: a parameter's group has no clip norm, or a group has no parameter; names the
                nearest.
        """
        names = [self.group_of(path) for path in paths]
        for path, name in zip(paths, names, strict=True):
            if name not in self.clip_norms:
                raise ValueError(
                    f"group_of puts parameter {path!r} into group {name!r}, which has no clip norm;"
                    f" clip_norms has {list(self.clip_norms)}."
                    + did_you_mean(name, self.clip_norms)
                )
        for name in self.clip_norms:
            if name not in names:
                near = difflib.get_close_matches(name, paths, n=1, cutoff=0.0)
                nearest = (
                    f"; the nearest, {near[0]!r}, is in {self.group_of(near[0])!r}" if near else ""
                )
                raise ValueError(
                    f"clip_norms has group {name!r}, but group_of puts no parameter into it"
                    f"{nearest}. A group without parameters would only add noise"
                )
        return tuple(self.group_names.index(name) for name in names)

    def factors(self, group_norms: jax.Array) -> jax.Array:
        """min(1, C_k/‖g_k‖) with the rounding margin."""
        return _shrink_to(
            jnp.stack([_bound(value) for value in self.clip_norms.values()]), group_norms
        )


class RowStatistics(NamedTuple):
    """What is known of each example once its norms are; see the fields of `ClippedGrad`."""

    norms: jax.Array
    counted: jax.Array
    clipped: jax.Array
    group_norms: jax.Array | None


def leaf_groups(rule: ClippingRule, params: PyTree) -> tuple[int, ...]:
    """The index of each parameter's group, in the order of the leaves; ValueError as the rule's."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    return rule.leaf_groups(
        [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    )


def scale(
    rule: ClippingRule, leaf_norms: Sequence[jax.Array], groups: Sequence[int], mask: jax.Array
) -> tuple[jax.Array, RowStatistics]:
    """Decides how much of every example goes into the sum.

    Args:
        rule: says what one example may contribute.
        leaf_norms: for each parameter, the `(B,)` float32 norms of the examples' gradients.
        groups: the group of each parameter, from `leaf_groups`.
        mask: `(B,)` bool.

    Returns:
        `(B, K)` float32 factors, 0 for all groups where an example is masked or any part of its
        gradient is not finite; and the statistics.
    """
    num_groups = 1 if rule.group_names is None else len(rule.group_names)
    columns = [
        _together([n for n, g in zip(leaf_norms, groups, strict=True) if g == k], mask.shape[0])
        for k in range(num_groups)
    ]
    norms = jnp.where(mask, _together(columns, mask.shape[0]), 0.0)
    group_norms = jnp.where(mask[:, None], jnp.stack(columns, axis=1), 0.0)
    counted = mask & jnp.isfinite(norms)
    factors = jnp.where(counted[:, None], rule.factors(group_norms), 0.0).astype(jnp.float32)
    clipped = counted & jnp.any(factors < 1, axis=1)
    return factors, RowStatistics(
        norms, counted, clipped, None if rule.group_names is None else group_norms
    )


_TINY = float(jnp.finfo(jnp.float32).tiny)
_LARGEST = float(jnp.finfo(jnp.float32).max)


def _together(norms: Sequence[jax.Array], batch_size: int) -> jax.Array:
    if not norms:
        return jnp.zeros(batch_size, jnp.float32)
    # A single norm stays as it is, to the last bit.
    return norms[0] if len(norms) == 1 else jax.vmap(hypot)(jnp.stack(norms, axis=1))


def _bound(clip_norm: Scalar) -> jax.Array:
    # Float32 first: in a shorter format the margin would be lost.
    return jnp.asarray(clip_norm, jnp.float32) * (1.0 - ROUNDING_MARGIN)


def _shrink_to(bound: jax.Array, norms: jax.Array) -> jax.Array:
    return jnp.minimum(1.0, bound / jnp.maximum(norms, _TINY))


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, jax.Array):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"{name} must be a number or a floating-point scalar, got an array of shape "
                f"{value.shape} and dtype {value.dtype}"
            )
        if isinstance(value, jax.core.Tracer):
            return
    elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")
