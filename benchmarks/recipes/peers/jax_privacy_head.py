"""A linear head tuned by jax_privacy: its batches, clipping, noise and accounting.

The optimizer is the one of optax that dpjax makes of the same options. jax_privacy has no average
of parameters: `MovingAverage` is in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dp_accounting import NeighboringRelation
from jax_privacy import batch_selection, clipping, noise_addition
from jax_privacy.accounting import accountants, analysis, calibrate

from benchmarks.recipes.peers.head_task import Head, HeadTask, MovingAverage, head_loss
from dpjax.finetuning.setup.optimizer import make_optimizer

OPTIMIZERS = ("adam", "adamw", "sgd", "adam-bc")
# Records whose gradients are held at once.
_MINIBATCH = 1024
_NEIGHBORING = NeighboringRelation.ADD_OR_REMOVE_ONE


def calibrate_noise(task: HeadTask) -> float:
    """Returns the noise multiplier that its search finds for the target ε."""
    return calibrate.calibrate_noise_multiplier(
        target_epsilon=task.target_epsilon,
        accountant=_accountant(),
        batch_sizes=task.batch_size,
        num_updates=task.num_steps,
        num_samples=len(task.labels),
        target_delta=task.delta,
    )


def spent_epsilon(task: HeadTask, noise_multiplier: float) -> float:
    """Returns ε of all steps by its accountant of privacy loss distributions."""
    run = analysis.DpParams(
        noise_multipliers=noise_multiplier,
        num_samples=len(task.labels),
        delta=task.delta,
        batch_size=task.batch_size,
    )
    return float(_accountant().compute_epsilon(task.num_steps, run))


def tune(task: HeadTask, noise_multiplier: float, seed: int) -> Head:
    """Returns the tuned head.

    Args:
        task: what is tuned, and how.
        noise_multiplier: σ; 0 for no noise.
        seed: of batches and noise, which have randomness of their own each.
    """
    for_batches, for_noise = np.random.SeedSequence(seed).spawn(2)
    clipped_mean = _clipped_mean(task)
    stddev = float(noise_multiplier * clipped_mean.sensitivity(_NEIGHBORING))
    noise_key = jax.random.wrap_key_data(for_noise.generate_state(2), impl="threefry2x32")
    optimizer = optax.chain(
        noise_addition.gaussian_privatizer(stddev=stddev, prng_key=noise_key),
        make_optimizer(task.training, task.num_steps, noise_stddev=stddev),
    )
    params = {"classifier": jax.tree.map(jnp.asarray, task.start)}
    state, average = optimizer.init(params), MovingAverage(task.training.ema_decay)
    add, update = _programs(clipped_mean, optimizer)
    # Places of padding are -1: the last record, which is no record.
    features = np.concatenate([task.features, np.zeros_like(task.features[:1])])
    labels = np.append(task.labels, np.zeros_like(task.labels[:1]))
    for rows in _sampling(task).batch_iterator(
        len(task.labels), rng=np.random.default_rng(for_batches)
    ):
        total = jax.tree.map(jnp.zeros_like, params)
        for places in batch_selection.split_and_pad_global_batch(rows, _MINIBATCH):
            total = add(total, params, (features[places], labels[places]), places == -1)
        params, state = update(total, params, state)
        average.add(jax.tree.map(np.asarray, params["classifier"]))
    return average.head


def _accountant() -> analysis.DpsgdTrainingAccountant:
    return analysis.DpsgdTrainingAccountant(accountants.PldAccountantConfig())


def _sampling(task: HeadTask) -> batch_selection.CyclicPoissonSampling:
    """Poisson batches of all records, each drawn by itself."""
    return batch_selection.CyclicPoissonSampling(
        sampling_prob=task.sampling_probability,
        iterations=task.num_steps,
        partition_type=batch_selection.PartitionType.INDEPENDENT,
    )


def _clipped_mean(task: HeadTask) -> clipping.BoundedSensitivityCallable:
    """Makes `(params, (features, labels), is_padding_example=...) -> clipped sum / B`."""
    loss = functools.partial(head_loss, label_smoothing=task.training.label_smoothing)
    return clipping.clipped_grad(
        lambda params, example: loss(params["classifier"], example),
        l2_clip_norm=task.clip_norm,
        normalize_by=task.batch_size,
        batch_argnums=1,
        keep_batch_dim=False,
    )


def _programs(
    clipped_mean: Callable[..., Any], optimizer: optax.GradientTransformation
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns compiled `add`, of the records of a minibatch, and `update`, of the parameters."""

    @jax.jit
    def add(total: Any, params: Any, batch: Any, is_padding: jax.Array) -> Any:
        part = clipped_mean(params, batch, is_padding_example=is_padding)
        return jax.tree.map(jnp.add, total, part)

    @jax.jit
    def update(total: Any, params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(total, state, params)
        return optax.apply_updates(params, updates), state

    return add, update
