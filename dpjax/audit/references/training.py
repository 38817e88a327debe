"""Shadow models: k sets of adapters on one frozen base, trained together in one program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD
from numpy.typing import ArrayLike, NDArray

from dpjax.audit.references.batches import ShadowBatches, draw_batches
from dpjax.audit.references.design import shadow_key
from dpjax.audit.references.mapping import Mapping, choose_mapping, map_shadows
from dpjax.audit.references.sides import checked_membership
from dpjax.basics.typing import PyTree
from dpjax.models import SplitModel, fresh_lora
from dpjax.privatize import RunKey, clipped_grad, noisy_mean

# (trainable, record, frozen) -> scalar in nats; the record has no axis of records.
ShadowLoss = Callable[[PyTree, Any, PyTree], jax.Array]
# Gradients are summed as they are: none that float32 can take the norm of is longer.
_UNREACHED_NORM = 1e30


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShadowTraining:
    """How shadows are trained: as the attacked model was, as far as the attacker knows.

    Attributes:
        num_steps: steps of the optimizer, at least 1.
        expected_batch_size: B, mean size of a Poisson batch, in records; sums are divided by it.
        clip_norm: C > 0 of private training, in L2 norm; None trains without privacy.
        noise_multiplier: σ > 0 of private training, in units of C; None without privacy.
        microbatch_size: how many records of a shadow are processed at a time; None: the batch.
            It bounds memory. Microbatches without a record are skipped where shadows are mapped
            one after another.

    Raises:
        ValueError: a number is not positive, or only one of `clip_norm` and `noise_multiplier` is
            given.

    Example:
        >>> training = ShadowTraining(num_steps=100, expected_batch_size=32)
        >>> training.clip_norm is None
        True
    """

    num_steps: int
    expected_batch_size: int
    clip_norm: float | None = None
    noise_multiplier: float | None = None
    microbatch_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if (self.clip_norm is None) != (self.noise_multiplier is None):
            raise ValueError(
                "clip_norm and noise_multiplier must be given together, for private training, or "
                f"not at all, got {self.clip_norm} and {self.noise_multiplier}"
            )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Shadows:
    """Trained shadow models.

    Attributes:
        trainable: the trained parameters, every leaf with a leading axis of k shadows.
        membership: (k, n) bool, True where a shadow was trained on a record.
        losses: (k, steps) float32, summed over the batch and divided by B.

    Example:
        >>> shadows = Shadows(
        ...     trainable={"w": jnp.zeros((2, 7))},
        ...     membership=np.array([[True, False, True], [False, True, True]]),
        ...     losses=np.ones((2, 5), np.float32),
        ... )
        >>> shadows.membership.sum(axis=1).tolist()
        [2, 2]
    """

    trainable: PyTree
    membership: NDArray[np.bool_]
    losses: NDArray[np.float32]


def train_shadows(
    loss: ShadowLoss,
    model: SplitModel,
    optimizer: optax.GradientTransformation,
    records: PyTree,
    membership: ArrayLike,
    training: ShadowTraining,
    *,
    run_key: RunKey,
    mapping: Mapping = "auto",
) -> Shadows:
    """Trains k shadow models on one frozen base, each on the records that `membership` gives it.

    One compiled program runs all steps of all shadows. Each has a run key of its own,
    `shadow_key(run_key, i)`, which draws its adapters (`dpjax.models.fresh_lora`), its Poisson
    batches among its own records and, in private training, its noise. A shadow is what an ordinary
    loop of `private_gradient` with that key makes of its records alone. Dropout is off.

    Shadows are instruments of the attack: nothing is accounted for them, and they must stay as
    private as the records.

    Args:
        loss: of one record, `(trainable, record, frozen) -> scalar`.
        model: structure and parameters; trained parameters other than adapters start as they are.
        optimizer: as of the attacked run.
        records: n encoded records, a pytree of arrays (n, ...). All are moved to the device at
            once, padded to one length.
        membership: (k, n) bool; `balanced_membership` draws one.
        training: steps, batches and privacy.
        run_key: of the attack, never that of the attacked run.
        mapping: "vmap" trains shadows side by side, "map" one after another; "auto" takes "map" on
            CPUs. Memory under "vmap" is that of k microbatches.

    Raises:
        TypeError: membership is not boolean, or `run_key` not a RunKey.
        ValueError: membership does not fit the records, a shadow has fewer records than the
            expected batch size, a trained parameter is not finite afterwards, or an option is
            unknown.

    Example:
        Two shadows of a linear model without adapters.

        >>> model = SplitModel(None, {"w": jnp.zeros(2)}, {})
        >>> shadows = train_shadows(
        ...     lambda trainable, x, frozen: jnp.sum((trainable["w"] - x) ** 2),
        ...     model,
        ...     optax.sgd(0.1),
        ...     np.eye(2, dtype=np.float32)[[0, 0, 1, 1]],
        ...     [[True, True, False, False], [False, False, True, True]],
        ...     ShadowTraining(num_steps=40, expected_batch_size=2),
        ...     run_key=RunKey.from_os_entropy(),
        ... )
        >>> shadows.trainable["w"].round(1).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    is_in = checked_membership(membership)
    num_records = {np.shape(leaf)[0] for leaf in jax.tree.leaves(records)}
    if num_records != {is_in.shape[1]}:
        raise ValueError(
            f"membership must have one column for each record, got {is_in.shape[1]} columns and "
            f"records with leading axes {sorted(num_records)}"
        )
    keys = [shadow_key(run_key, shadow) for shadow in range(len(is_in))]
    batches = draw_batches(
        is_in,
        keys,
        num_steps=training.num_steps,
        expected_batch_size=training.expected_batch_size,
        microbatch_size=training.microbatch_size,
    )
    program = compile_training(loss, optimizer, training, choose_mapping(mapping), len(is_in))
    trainable, losses = program(
        split_by_shadow(model, training, keys, batches), model.frozen, records
    )
    _check_finite(trainable)
    return Shadows(trainable=trainable, membership=is_in, losses=np.asarray(losses))


def split_by_shadow(
    model: SplitModel,
    training: ShadowTraining,
    keys: Sequence[RunKey],
    batches: ShadowBatches,
) -> PyTree:
    """Returns what each shadow has of its own: parameters to start from, batches and noise keys."""
    starts = [fresh_lora(model.trainable, model.frozen, key=key.model_key("lora")) for key in keys]
    noise = None
    if training.clip_norm is not None:
        steps = range(training.num_steps)
        noise = jnp.stack([jnp.stack([key.noise_keys(step) for step in steps]) for key in keys])
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts), batches, noise


def compile_training(
    loss: ShadowLoss,
    optimizer: optax.GradientTransformation,
    training: ShadowTraining,
    mapping: Literal["vmap", "map"],
    num_shadows: int,
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, jax.Array]]:
    """Makes the compiled program `(of_each, frozen, records) -> (trainable, losses)`.

    Args:
        loss: as for `train_shadows`.
        optimizer: as for `train_shadows`.
        training: as for `train_shadows`.
        mapping: how shadows are run through.
        num_shadows: k, how many of them.
    """
    mean_of = _make_mean(training)
    num_vmapped = num_shadows if mapping == "vmap" else 1

    def train(own: PyTree, frozen: PyTree, records: PyTree) -> tuple[PyTree, jax.Array]:
        start, batches, noise_keys = own

        def record_loss(params: PyTree, record: PyTree) -> jax.Array:
            return loss(params, record, frozen)

        clip_norm = _UNREACHED_NORM if training.clip_norm is None else training.clip_norm
        clipped = clipped_grad(record_loss, clip_norm=clip_norm, num_vmapped=num_vmapped)

        def step(carry: tuple[PyTree, PyTree], drawn: PyTree) -> tuple[Any, jax.Array]:
            params, state = carry
            (rows, counts), keys = drawn

            def add(total: PyTree, piece: ShadowBatches) -> tuple[PyTree, None]:
                def add_some() -> PyTree:
                    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[piece.rows], records)
                    result = clipped(params, batch, jnp.asarray(piece.counts))
                    finite = jnp.where(jnp.isfinite(result.losses), result.losses, 0.0)
                    return jax.tree.map(jnp.add, total, (result.grads, jnp.sum(finite)))

                return jax.lax.cond(jnp.any(piece.counts), add_some, lambda: total), None

            zeros = (jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32))
            (summed, losses), _ = jax.lax.scan(add, zeros, ShadowBatches(rows, counts))
            updates, state = optimizer.update(mean_of(summed, keys), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), losses / training.expected_batch_size

        drawn = (batches, noise_keys)
        (trained, _), losses = jax.lax.scan(step, (start, optimizer.init(start)), drawn)
        return trained, losses

    return jax.jit(map_shadows(train, mapping))


def _make_mean(training: ShadowTraining) -> Callable[[PyTree, Any], PyTree]:
    """Makes the function from a clipped sum and noise keys to the gradient of a step."""
    batch_size, clip_norm = training.expected_batch_size, training.clip_norm
    if clip_norm is None or training.noise_multiplier is None:
        return lambda summed, _: jax.tree.map(lambda grad: grad / batch_size, summed)
    # Of the mechanism only noise multiplier and expected batch size are read here.
    mechanism = DPSGD(
        num_units=batch_size,
        expected_batch_size=batch_size,
        noise_multiplier=training.noise_multiplier,
        num_steps=training.num_steps,
    )
    return lambda summed, keys: noisy_mean(summed, keys, mechanism=mechanism, clip_norm=clip_norm)


def _check_finite(trainable: PyTree) -> None:
    finite = [
        np.all(np.isfinite(leaf).reshape(len(leaf), -1), axis=1)
        for leaf in jax.tree.leaves(jax.device_get(trainable))
    ]
    diverged = np.flatnonzero(~np.all(finite, axis=0))
    if diverged.size:
        raise ValueError(
            f"shadow {diverged[0]} and {len(diverged)} of {len(finite[0])} in all have trained "
            "parameters that are not finite. Lower the learning rate"
        )
