"""`clipped_grad`: the sum of per-example gradients, each scaled so that its L2 norm is bounded."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import LossFn, PyTree
from dpjax.privatize import microbatch
from dpjax.privatize.devices.effects import trace_gradient
from dpjax.privatize.devices.explicit_axes import explicit_mesh, with_automatic_axes
from dpjax.privatize.devices.room import Room, check_device_memory, devices_of_rows
from dpjax.privatize.devices.varying import axes_of, check_reducible, example_types, vary
from dpjax.privatize.rules.clipping_rules import (
    ClippingRule,
    FlatClipping,
    RowStatistics,
    leaf_groups,
)
from dpjax.privatize.strategies import strategy_named
from dpjax.privatize.untrained_leaves import is_fixed, merged, split, with_zeros

_SENSITIVITY_IN_CLIP_NORMS = {"add_or_remove_one": 1.0, "zero_out": 1.0, "replace_one": 2.0}


class ClippedGrad(NamedTuple):
    """What one call of a clipped gradient function returns.

    Attributes:
        grads: Σᵢ cᵢ gᵢ over the examples that count; float32, the structure of the parameters. For
            integer and boolean parameters, zeros of their dtype.
        norms: `(B,)` float32, ‖gᵢ‖₂ before clipping; 0 on masked rows, inf or NaN where the
            gradient was not finite (such an example contributed zero). Where a loss computes in
            bfloat16, including what rounding may add to the contribution.
        losses: `(B,)` float32; 0 on masked rows.
        counted: `(B,)` bool: the example took part; it was not masked and its gradient was finite.
        clipped: `(B,)` bool: it took part, and its gradient, or that of one group, was shortened.
        group_norms: `(B, K)` float32, as `norms`, for each group of `PerGroupClipping`; else None.
        aux: what the loss returned beside the scalar, with a leading axis `(B, ...)`, unmasked;
            None without `has_aux`.

    Only `grads`, once noise is added, is covered by a privacy guarantee. The rest is private data.
    """

    grads: PyTree
    norms: jax.Array
    losses: jax.Array
    counted: jax.Array
    clipped: jax.Array
    group_norms: jax.Array | None = None
    aux: PyTree = None

    @property
    def num_nonfinite(self) -> jax.Array:
        """How many examples had a NaN or infinite gradient and were left out, int32 scalar."""
        return jnp.sum(~jnp.isfinite(self.norms), dtype=jnp.int32)

    @property
    def num_clipped(self) -> jax.Array:
        """How many examples had their gradient shortened, int32 scalar."""
        return jnp.sum(self.clipped, dtype=jnp.int32)

    @property
    def clipped_fraction(self) -> jax.Array:
        """The share of the counted examples that were clipped, float32 scalar; 0 of none."""
        counted = jnp.sum(self.counted, dtype=jnp.int32)
        return self.num_clipped / jnp.maximum(1, counted).astype(jnp.float32)

    @property
    def centered_count(self) -> jax.Array:
        """Σᵢ (bᵢ - ½) over `counted`, bᵢ = 1 where not clipped: for `AdaptiveClipping`; float32.

        Exact below 2²³ examples. One example more or less moves it by at most ½.
        """
        halves = jnp.where(self.clipped, -0.5, 0.5).astype(jnp.float32)
        return jnp.sum(jnp.where(self.counted, halves, 0.0))


@dataclasses.dataclass(frozen=True, eq=False)
class ClippedGradFn:
    """A function `(params, batch, mask=None) -> ClippedGrad` that knows its sensitivity.

    Build it with `clipped_grad`. `jax.jit` of it hides the attributes: keep this object too.
    """

    loss_fn: LossFn
    rule: ClippingRule
    strategy: str
    microbatch_size: int | None
    has_aux: bool
    room: Room

    @property
    def clip_norm(self) -> float | jax.Array:
        """C, the most that one example contributes to `grads`, in L2 norm; noise is in units of it.

        √ΣC_k² for `PerGroupClipping`; an array where the rule holds arrays.
        """
        return self.rule.clip_norm

    def sensitivity(self, neighboring: str = "add_or_remove_one") -> float | jax.Array:
        """The L2 sensitivity of `grads`: the most that one example can move it.

        Args:
            neighboring: "add_or_remove_one" or "zero_out" (`clip_norm`), or "replace_one" (twice
                that: one clipped contribution leaves and another enters).

        Raises:
            ValueError: the relation is unknown.
        """
        if neighboring not in _SENSITIVITY_IN_CLIP_NORMS:
            raise ValueError(
                f"unknown neighbouring relation {neighboring!r}; "
                f"known are {sorted(_SENSITIVITY_IN_CLIP_NORMS)}"
            )
        return _SENSITIVITY_IN_CLIP_NORMS[neighboring] * self.clip_norm

    def __call__(self, params: PyTree, batch: PyTree, mask: jax.Array | None = None) -> ClippedGrad:
        """Clips and sums the gradients of the rows of `batch` where `mask` is True.

        Args:
            params: any pytree of floating-point arrays, in any precision; integer and boolean ones
                are passed to the loss and left alone.
            batch: any pytree whose leaves all have a leading example axis `(B, ...)`; B may be 0.
            mask: `(B,)` bool; None counts every row. A masked row contributes exactly zero,
                whatever it holds.

        Raises:
            TypeError: a parameter is complex or a random key, or none is floating-point; or the
                mask is not boolean.
            ValueError: leading axes differ, the loss is not a scalar, the gradient of one example
                exchanges values over a named axis, or the rule's groups do not fit the parameters.
        """
        batch_size = checked_batch_size(batch)
        mesh = explicit_mesh((params, batch, mask))
        if mesh is not None:
            # With automatic axes the rows no longer tell.
            divided = dataclasses.replace(self, room=self._room_of(batch))
            return ClippedGrad(*with_automatic_axes(divided, mesh, params, batch, mask))
        mask = checked_mask(mask, batch_size)
        check_params(params)
        check_reducible(params)
        loss = _checked_loss(self.loss_fn, params, batch, self.has_aux)
        trained, fixed = split(params)
        # The gradient of what is the same on all devices would be the sum over devices. What rows
        # and rule vary over, the backward pass will too.
        trained = vary(trained, axes_of((loss, mask, list(vars(self.rule).values()))))

        def loss_fn(trained: PyTree, example: PyTree) -> Any:
            return self.loss_fn(merged(trained, fixed), example)

        clipped = self._clip_trained(loss_fn, trained, batch, mask)
        return clipped._replace(grads=with_zeros(clipped.grads, fixed))

    def _clip_trained(
        self, loss_fn: LossFn, params: PyTree, batch: PyTree, mask: jax.Array
    ) -> ClippedGrad:
        batch_size = mask.shape[0]
        if batch_size == 0:
            return self._empty(loss_fn, params, batch)
        make_clip = strategy_named(self.strategy)
        clip_one = make_clip(loss_fn, self.rule, self.has_aux, self._room_of(batch))
        try:
            if self.microbatch_size is None or self.microbatch_size >= batch_size:
                return _assembled(*clip_one(params, batch, mask))
            return _assembled(*microbatch.run(clip_one, params, batch, mask, self.microbatch_size))
        except NotImplementedError as error:
            raise NotImplementedError(
                f"JAX cannot compute loss_fn for several examples at once: {error}. Every strategy "
                "needs jax.vmap of it. For jax.lax.ragged_dot, multiply by every expert and select "
                "with a one-hot mask, or write the operation with jax.lax.map"
            ) from error

    def _room_of(self, batch: PyTree) -> Room:
        num_devices = max(self.room.num_devices, devices_of_rows(batch))
        return dataclasses.replace(self.room, num_devices=num_devices)

    def _empty(self, loss_fn: LossFn, params: PyTree, batch: PyTree) -> ClippedGrad:
        # vmap over no examples would leave reductions over an empty axis, which have no identity.
        leaf_groups(self.rule, params)
        grads = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.float32), params)
        floats, flags, groups = jnp.zeros(0, jnp.float32), jnp.zeros(0, bool), None
        if self.rule.group_names is not None:
            groups = jnp.zeros((0, len(self.rule.group_names)), jnp.float32)
        aux = None
        if self.has_aux:
            _, aux_shapes = jax.eval_shape(loss_fn, params, example_types(batch))
            aux = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), aux_shapes)
        return _assembled(grads, RowStatistics(floats, flags, flags, groups), floats, aux)


def clipped_grad(
    loss_fn: LossFn,
    *,
    clip_norm: float | jax.Array | None = None,
    rule: ClippingRule | None = None,
    strategy: str = "auto",
    microbatch_size: int | None = None,
    has_aux: bool = False,
    num_vmapped: int = 1,
    num_devices: int = 1,
    device_memory: int | None = None,
) -> ClippedGradFn:
    """Transforms a loss of one example into a function that returns Σᵢ cᵢ ∇loss(params, exampleᵢ).

    With `clip_norm`, cᵢ = min(1, C / ‖gᵢ‖₂) with the norm over all parameters together (Abadi et
    al. 2016, "Deep Learning with Differential Privacy", Algorithm 1): short for
    `rule=FlatClipping(C)`. The other rules are `PerGroupClipping` and `AutomaticClipping`;
    `AdaptiveClipping` is a rule of `private_gradient`. Norms, factors and the sum are float32
    whatever the precision of the parameters. C is lowered by one part in 2¹⁹ inside the factor, so
    that float32 rounding of the norm and of the product leaves no contribution above C.

    Integer and boolean leaves of the parameters (counters, lookup tables) are passed to the loss
    and not trained: they are in no norm and in no group, and have zeros of their own dtype in the
    sum. `noisy_mean` adds no noise to those, and `optax.apply_updates` leaves the parameters as
    they are. Keep them out of the optimizer all the same, with `optax.masked`: its updates are
    floats, which round integers above 2²⁴, and weight decay would change any. Sums over batches
    start from `jnp.zeros_like` of every parameter: a sum in float32 would be given noise.

    Args:
        loss_fn: `(params, example) -> scalar`, or `(scalar, aux)` with `has_aux`; it sees one
            example without a batch axis. `unit_loss` makes one of a unit of several examples.
        clip_norm: C > 0; inside `jax.jit` it may be a traced scalar.
        rule: instead of `clip_norm`.
        strategy: how the clipped sum is computed; every strategy gives the same result up to
            rounding. "materialize" computes all per-example gradients of a microbatch with
            `jax.vmap`; "one_backward" keeps the operands of every weight gradient instead;
            "two_backwards" goes back twice and keeps neither; "auto" estimates which is fastest
            of those that take a small share of a device's memory (`explain` says what it finds).
        microbatch_size: process this many examples at a time, one after another; None takes the
            whole batch at once. Changes memory, not the result. With a batch spread over devices,
            a multiple of their number, so that each takes its share of every microbatch.
        has_aux: the loss returns `(scalar, aux)`.
        num_vmapped: how many calls `jax.vmap` of the function runs at once, for instance one for
            each of several models. Memory is limited for as many batches together; the function
            itself sees one. Changes memory and time, not the result.
        num_devices: among how many devices the rows of a batch are divided, where its arrays do not
            tell: inside `jax.jit`, with automatic axes.
        device_memory: bytes that one device can use, for "auto"; default: those of the default
            device, as `dpjax.privatize.device_memory` finds them, or 8 GiB where it finds none.
            Where several processes compute together, give all of them the same number.

    Raises:
        TypeError: `clip_norm` is not a number, `rule` not a rule, or not exactly one is given;
            `device_memory` is not a whole number.
        ValueError: the clip norm, microbatch size, number of calls or devices, or memory is not
            positive, or the strategy is unknown.

    Example:
        The gradient of this loss is the example itself: norms 5, 1 and 0.

        >>> clipped = clipped_grad(lambda params, x: jnp.sum(params * x), clip_norm=2.0)
        >>> batch = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
        >>> result = jax.jit(clipped)(jnp.zeros(2), batch)
        >>> [f"{x:.2f}" for x in result.grads], [f"{norm:.2f}" for norm in result.norms]
        (['2.20', '1.60'], ['5.00', '1.00', '0.00'])
        >>> int(result.num_clipped), clipped.clip_norm, clipped.sensitivity()
        (1, 2.0, 2.0)
    """
    if (clip_norm is None) == (rule is None):
        raise TypeError("clipped_grad needs either clip_norm or rule, and not both")
    if clip_norm is not None:
        rule = FlatClipping(clip_norm)
    if not isinstance(rule, ClippingRule):
        raise TypeError(f"rule must be a clipping rule such as FlatClipping(1.0), got {rule!r}")
    if microbatch_size is not None and microbatch_size < 1:
        raise ValueError(f"microbatch_size must be at least 1, got {microbatch_size}")
    if num_vmapped < 1:
        raise ValueError(f"num_vmapped must be at least 1, got {num_vmapped}")
    if num_devices < 1:
        raise ValueError(f"num_devices must be at least 1, got {num_devices}")
    check_device_memory(device_memory)
    strategy_named(strategy)
    room = Room(num_vmapped, num_devices, device_memory)
    return ClippedGradFn(loss_fn, rule, strategy, microbatch_size, has_aux, room)


def checked_batch_size(batch: PyTree) -> int:
    """Returns the number of examples; ValueError where leaves have no such axis or disagree."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    if not leaves:
        raise ValueError("batch has no arrays: it must be a pytree with a leading example axis")
    sizes = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path) or "batch"
        if not jnp.ndim(leaf):
            raise ValueError(f"batch{name} is a scalar: every leaf needs a leading example axis")
        sizes[name] = jnp.shape(leaf)[0]
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the leaves of batch disagree about the number of examples: {sizes}")
    return next(iter(sizes.values()))


def checked_mask(mask: jax.Array | None, batch_size: int) -> jax.Array:
    """Returns the `(B,)` bool mask, all True for None; TypeError or ValueError for another one."""
    if mask is None:
        return jnp.ones(batch_size, bool)
    if jnp.result_type(mask) != jnp.bool_:
        raise TypeError(f"mask must be boolean (True counts), got dtype {jnp.result_type(mask)}")
    if jnp.shape(mask) != (batch_size,):
        raise ValueError(f"mask must have shape ({batch_size},), got {jnp.shape(mask)}")
    return jnp.asarray(mask)


def check_params(params: PyTree) -> None:
    """Raises TypeError where a parameter can neither be trained nor left alone."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        if not (jnp.issubdtype(jnp.result_type(leaf), jnp.floating) or is_fixed(leaf)):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} has dtype {jnp.result_type(leaf)}: parameters "
                "are floating-point, or integer or boolean and not trained; let loss_fn close over "
                "the others"
            )
    if leaves and all(is_fixed(leaf) for _, leaf in leaves):
        raise TypeError("params has integers and truth values only: there is nothing to train")


def _checked_loss(loss_fn: LossFn, params: PyTree, batch: PyTree, has_aux: bool) -> Any:
    """The abstract loss of one example."""
    _, loss = trace_gradient(loss_fn, params, example_types(batch), return_shape=True)
    if has_aux:
        if not (isinstance(loss, tuple) and len(loss) == 2):
            raise ValueError("with has_aux=True the loss must return (scalar, aux)")
        loss = loss[0]
    check_scalar(loss)
    return loss


def check_scalar(loss: Any) -> None:
    """Raises ValueError where the loss of one example, an abstract value, is not one scalar."""
    if getattr(loss, "shape", None) != ():
        seen = getattr(loss, "shape", type(loss).__name__)
        raise ValueError(
            f"loss_fn must return one scalar for one example, got {seen}; it is called without a "
            "batch axis (a loss that returns a tuple needs has_aux=True)"
        )


def _assembled(grads: PyTree, rows: RowStatistics, losses: jax.Array, aux: PyTree) -> ClippedGrad:
    return ClippedGrad(
        grads=grads,
        norms=rows.norms,
        losses=losses,
        counted=rows.counted,
        clipped=rows.clipped,
        group_norms=rows.group_norms,
        aux=aux,
    )
