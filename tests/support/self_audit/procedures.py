"""The library's own procedures, which keep their claim, and planted bugs, which break it."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import DPSGD

from dpjax import clipped_grad, noisy_mean
from dpjax.privatize import AutomaticClipping, PerGroupClipping
from tests.support.self_audit import scores
from tests.support.self_audit.loop import RUNS_AT_ONCE, Procedure, release_noisy_mean
from tests.support.self_audit.setting import (
    CLIP_NORM,
    linear_loss,
    make_crowd_setting,
    make_setting,
    make_user_setting,
)

_UNITS, _NUM_STEPS, _NUM_MICROBATCHES = 8, 4, 4
# The μ of a Gaussian release whose ε at δ = 1e-5 is the key.
_MU = {1: 0.268051, 4: 0.924931, 8: 1.666031}


def _mechanism(**others) -> DPSGD:
    fields = {
        "num_units": _UNITS,
        "expected_batch_size": _UNITS / 2,
        "noise_multiplier": 1.5,
        "num_steps": _NUM_STEPS,
    }
    return DPSGD(**(fields | others))


def _full_batch(epsilon: int, num_steps: int = _NUM_STEPS, **others) -> DPSGD:
    return _mechanism(
        expected_batch_size=others.get("num_units", _UNITS),
        noise_multiplier=math.sqrt(num_steps) / _MU[epsilon],
        num_steps=num_steps,
        **others,
    )


_likely = functools.partial(Procedure, score=scores.likelihood_ratio)
_broken = functools.partial(Procedure, is_broken=True)
_tight = functools.partial(_likely, least_share=0.9)

_POISSON = make_setting(_mechanism())
_FULL = make_setting(_full_batch(4))
_USERS = make_user_setting(_full_batch(4))
_OFTEN = {"expected_batch_size": 6, "noise_multiplier": 2.0}
_REPLACED = make_setting(_mechanism(**_OFTEN, neighboring="replace_one"))
# As few records as the divisor of another size shows best.
_FEW = make_setting(_full_batch(4, num_units=5), size=800)
_CROWD = make_crowd_setting(
    _mechanism(
        num_units=16,
        expected_batch_size=2,
        num_steps=8,
        noise_multiplier=0.7,
        neighboring="zero_out",
    )
)
_BY_GROUP = PerGroupClipping(lambda path: path, {"body": 0.6, "head": 0.8})


def release_half_the_noise(setting, params, batch, mask, keys):
    """Σ + N(0, (σC/2)²)."""
    clipped = clipped_grad(setting.loss, rule=setting.rule)
    total = clipped(params, batch, mask).grads
    return noisy_mean(total, keys, mechanism=setting.mechanism, clip_norm=clipped.clip_norm / 2)


def release_clipped_mean(setting, params, batch, mask, keys):
    """The gradient of the mean loss is clipped to C, then σC/B of noise added."""

    def mean_loss(params, batch):
        losses = jax.vmap(setting.loss, (None, 0))(params, batch[0])
        return jnp.sum(jnp.where(batch[1], losses, 0.0)) / setting.mechanism.expected_batch_size

    whole = jax.tree.map(lambda leaf: leaf[None], (batch, mask))
    mean = clipped_grad(mean_loss, rule=setting.rule)(params, whole).grads
    total = jax.tree.map(lambda leaf: leaf * setting.mechanism.expected_batch_size, mean)
    return noisy_mean(total, keys, mechanism=setting.mechanism, clip_norm=setting.clip_norm)


def release_with_padding(setting, params, batch, mask, keys):
    """Rows that only fill the microbatch up count."""
    return release_noisy_mean(setting, params, batch, jnp.ones_like(mask), keys)


def release_mean_of_noisy_microbatches(setting, params, batch, mask, keys):
    """Each microbatch's mean gets the noise of the whole batch's, and then they are averaged."""
    clipped = clipped_grad(setting.loss, rule=setting.rule)

    def of_microbatch(index):
        mine = mask & (jnp.arange(mask.size) % _NUM_MICROBATCHES == index)
        total = clipped(params, batch, mine).grads
        return noisy_mean(
            jax.tree.map(lambda leaf: leaf * _NUM_MICROBATCHES, total),
            jax.vmap(jax.random.fold_in, (0, None))(keys, index),
            mechanism=setting.mechanism,
            clip_norm=clipped.clip_norm,
        )

    means = jax.vmap(of_microbatch)(jnp.arange(_NUM_MICROBATCHES))
    return jax.tree.map(lambda leaf: leaf.mean(axis=0), means)


def release_users_clipped_by_record(setting, params, users, mask, keys):
    """A user's records are clipped to C each, and not together."""
    by_record = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), users["examples"])
    counts = (users["mask"] & mask[:, None]).reshape(-1)
    clipped = clipped_grad(linear_loss, rule=setting.rule)
    total = clipped(params, by_record, counts).grads
    return noisy_mean(total, keys, mechanism=setting.mechanism, clip_norm=clipped.clip_norm)


def release_by_realised_size(setting, params, batch, mask, keys):
    """(Σ + noise) / n, with n the size that the batch happens to have."""
    mean = release_noisy_mean(setting, params, batch, mask, keys)
    scale = setting.mechanism.expected_batch_size / jnp.maximum(1, mask.sum())
    return jax.tree.map(lambda leaf: leaf * scale, mean)


def draw_shuffled(setting, run_key, present, step):
    """One batch of an epoch in random order, instead of a Poisson batch."""
    size = int(setting.mechanism.expected_batch_size)
    order = run_key.sampling_rng(0).permutation(setting.num_slots)
    rows = np.resize(order[step * size : (step + 1) * size], setting.num_slots)
    return [(rows, np.arange(setting.num_slots) < size)]


REAL = (
    _tight("full batch, ε = 8", make_setting(_full_batch(8)), num_runs=20_000),
    _tight("full batch, ε = 4", _FULL, num_runs=40_000),
    _likely("Poisson batches", _POISSON),
    _likely("automatic clipping", make_setting(_mechanism(), rule=AutomaticClipping(CLIP_NORM))),
    _likely("clipping per group", make_setting(_mechanism(), rule=_BY_GROUP)),
    _likely("microbatches", make_setting(_mechanism(), microbatch_size=2)),
    _likely("users of several records", _USERS),
    _likely("a record replaced", _REPLACED),
    Procedure("Poisson batches, step differences", _POISSON, scores.step_differences),
    Procedure("few records, noise scale", _FEW, scores.small_noise, num_runs=2 * RUNS_AT_ONCE),
    Procedure("Poisson batches, others against it", _CROWD, scores.odd_batch),
    _tight("full batch, ε = 1", make_setting(_full_batch(1, num_steps=2)), num_runs=300_000),
)
PLANTED = (
    _broken("half the noise", _FULL, scores.likelihood_ratio, release=release_half_the_noise),
    _broken("mean clipped", _POISSON, scores.likelihood_ratio, release=release_clipped_mean),
    _broken("mask ignored", _POISSON, scores.likelihood_ratio, release=release_with_padding),
    _broken("shuffled, not Poisson", _CROWD, scores.odd_batch, draw=draw_shuffled),
    _broken(
        "noise key reused",
        _POISSON,
        scores.step_differences,
        noise_keys=lambda run_key, step: run_key.noise_keys(0),
    ),
    _broken(
        "noisy microbatches averaged",
        _FULL,
        scores.likelihood_ratio,
        release=release_mean_of_noisy_microbatches,
    ),
    _broken(
        "users clipped by record",
        _USERS,
        scores.likelihood_ratio,
        release=release_users_clipped_by_record,
    ),
    _broken(
        "replacement counted as removal",
        _REPLACED,
        scores.likelihood_ratio,
        claimed=_mechanism(**_OFTEN),
    ),
    _broken(
        "realised divisor",
        _FEW,
        scores.small_noise,
        release=release_by_realised_size,
        num_runs=2 * RUNS_AT_ONCE,
    ),
)
