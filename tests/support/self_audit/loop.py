"""Many independent runs of DP-SGD in one compiled program, made of the library's own parts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import Mechanism

from dpjax import PoissonSampler, RunKey, clipped_grad, noisy_mean, private_gradient
from dpjax.privatize import microbatches
from tests.support.self_audit.setting import Setting

RUNS_AT_ONCE = 2048


def draw_poisson(setting: Setting, run_key: RunKey, present: np.ndarray, step: int) -> list:
    """The microbatches of a step: pairs of rows and mask."""
    sampler = PoissonSampler.for_mechanism(setting.mechanism, run_key, present)
    return list(microbatches(sampler.indices(step), setting.num_slots))


def release_noisy_mean(setting: Setting, params, batch, mask, keys):
    """One step on the device: from the batch to what is released."""
    clipped = clipped_grad(setting.loss, rule=setting.rule, microbatch_size=setting.microbatch_size)
    return noisy_mean(
        clipped(params, batch, mask).grads,
        keys,
        mechanism=setting.mechanism,
        clip_norm=clipped.clip_norm,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Procedure:
    """Training as the library does it, or with one part replaced by a broken one; and an attack.

    Attributes:
        name: for the table.
        setting: model, records and mechanism.
        score: `(setting, releases (R, T, D)) -> (R,)`, higher for runs with the canary.
        draw: the batch of a step.
        noise_keys: the keys of a step's noise.
        release: the step on the device.
        claimed: what the accountant is told; default: the setting's mechanism.
        is_broken: a bug is planted.
        num_runs: that `make audit-self` trains.
        least_share: of the claimed ε that the Gaussian bound must reach.
    """

    name: str
    setting: Setting
    score: Callable
    draw: Callable = draw_poisson
    noise_keys: Callable[[RunKey, int], jax.Array] = RunKey.noise_keys
    release: Callable = release_noisy_mean
    claimed: Mechanism | None = None
    is_broken: bool = False
    num_runs: int = 4 * RUNS_AT_ONCE
    least_share: float = 0.0

    @property
    def claim(self) -> Mechanism:
        """What the accountant is told."""
        return self.claimed or self.setting.mechanism


def train(
    procedure: Procedure, *, num_runs: int, seed: int, runs_at_once: int = RUNS_AT_ONCE
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores `(R,)` and the coins `(R,)` of independent runs; R may be rounded up."""
    scores, coins = [], []
    for first in range(0, num_runs, runs_at_once):
        keys = [RunKey.from_seed((seed << 32) + first + index) for index in range(runs_at_once)]
        of_chunk = np.array([flip(key) for key in keys])
        releases = releases_of(procedure, keys, of_chunk)
        scores.append(np.asarray(procedure.score(procedure.setting, releases)))
        coins.append(of_chunk)
    return np.concatenate(scores), np.concatenate(coins)


def flip(run_key: RunKey) -> bool:
    """The coin of a run, from a stream of its own."""
    return bool(run_key.audit_bytes("self-audit/coin", 1)[0] & 1)


def releases_of(procedure: Procedure, run_keys: list[RunKey], coins: np.ndarray) -> np.ndarray:
    """What each run releases: `(R, T, D)` float32 private gradients."""
    prepared = [
        _prepared(procedure, key, bool(coin)) for key, coin in zip(run_keys, coins, strict=True)
    ]
    return np.asarray(_compiled(procedure)(coins, *map(np.stack, zip(*prepared, strict=True))))


def releases_by_private_gradient(setting: Setting, run_key: RunKey, coin: bool) -> np.ndarray:
    """What one run of a loop with `private_gradient` releases: `(T, D)`."""
    private = private_gradient(
        setting.loss,
        mechanism=setting.mechanism,
        run_key=run_key,
        rule=setting.rule,
        present=setting.present(coin),
    )
    records = setting.records if coin else setting.others
    params, releases = setting.params(), []
    for step in range(setting.mechanism.num_steps):
        total = private.zeros(params, step)
        for rows, mask in private.batches(step, microbatch_size=3):
            batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], records)
            total = private.add(total, params, batch, mask)
        mean = private.release(total, step)
        params = jax.tree.map(lambda p, g: p - setting.learning_rate * g, params, mean)
        releases.append(np.concatenate(jax.tree.leaves(mean)))
    return np.stack(releases)


def _prepared(procedure: Procedure, run_key: RunKey, coin: bool) -> tuple[np.ndarray, ...]:
    """Of one run: rows and mask `(T, S)`, and the noise keys' words `(T, 4, 2)`."""
    setting, rows, masks, words = procedure.setting, [], [], []
    # An empty batch has no microbatch: none of these rows counts.
    nothing = np.full(setting.num_slots, setting.num_slots - 1), np.zeros(setting.num_slots, bool)
    present = setting.present(coin)
    for step in range(setting.mechanism.num_steps):
        pieces = procedure.draw(setting, run_key, present, step)
        own_rows, own_mask = pieces[0] if pieces else nothing
        rows.append(own_rows)
        masks.append(own_mask)
        words.append(np.asarray(jax.random.key_data(procedure.noise_keys(run_key, step))))
    return np.stack(rows), np.stack(masks), np.stack(words)


@functools.lru_cache(maxsize=1)
def _compiled(procedure: Procedure) -> Callable:
    setting = procedure.setting

    def run(coin, rows, masks, words):
        records = jax.tree.map(
            lambda yes, no: jnp.where(coin, yes, no), setting.records, setting.others
        )

        def step(params, drawn):
            own_rows, mask, own_words = drawn
            keys = jax.random.wrap_key_data(own_words, impl="threefry2x32")
            batch = jax.tree.map(lambda leaf: leaf[own_rows], records)
            mean = procedure.release(setting, params, batch, mask, keys)
            updated = jax.tree.map(lambda p, g: p - setting.learning_rate * g, params, mean)
            return updated, jnp.concatenate(jax.tree.leaves(mean))

        return jax.lax.scan(step, setting.params(), (rows, masks, words))[1]

    return jax.jit(jax.vmap(run))
