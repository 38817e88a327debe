"""A run that trains its head first, and then the rest, is two loops with one guarantee."""

import copy
import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD, DPSGDSchedule, Ledger, Segment, verify_report
from rich.console import Console

import dpjax
from dpjax.finetuning import run as run_module
from dpjax.finetuning.config import FinetuneConfig, Training
from dpjax.finetuning.setup import steps as steps_module
from dpjax.finetuning.setup.model import clipping_rule as clipping
from dpjax.finetuning.setup.optimizer import make_optimizer
from dpjax.finetuning.setup.steps import noise_stddev_of
from dpjax.privatize import FlatClipping, noisy_mean, sampler_for
from dpjax.training import average_of, keep_average
from tests.finetuning.training.test_devices import assert_same_weights, on_eight_devices
from tests.support.owned_records import author_of_each, make_run, owned_file
from tests.support.runs import weights

STAGES = {"num_steps": 6, "head_steps": 3, "head_learning_rate": 0.05}
LADDER = {
    "tuning": "last_layers",
    "num_trained_layers": 1,
    "privacy": {"noise_multiplier": 4.0, "delta": 1e-5, "clip_norm": 0.5, "head_clip_norm": 0.2},
    "num_layers": 2,
}


@pytest.fixture
def options(cheap_options, tmp_path):
    options = copy.deepcopy(cheap_options) | copy.deepcopy(LADDER)
    options["training"] |= STAGES | {"head_batch_size": 100}
    return options | {"output_dir": tmp_path / "run"}


@pytest.fixture
def trained(monkeypatch):
    """Runs with options, and returns the result and the parameters that training came to."""

    def run(options):
        found = []

        def train(*args, **kwargs):
            found.append(made := run_of_all(*args, **kwargs))
            return made

        run_of_all = run_module.train
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "train", train)
            result = dpjax.finetune(**options)
        return result, found[0].trainable

    return run


def clipped_sum(loss, params, frozen, batch, norms):
    """The sum of gradients of which each part, by its name, is clipped to its norm."""
    grads = jax.vmap(jax.grad(loss), (None, 0, None))(params, batch, frozen)
    total = {}
    for names, norm in norms:
        part = {name: grads[name] for name in names}
        squares = [jnp.sum(g.reshape(len(g), -1) ** 2, axis=1) for g in jax.tree.leaves(part)]
        factors = jnp.minimum(1.0, norm / jnp.sqrt(sum(squares)))
        total |= jax.tree.map(lambda g, f=factors: jnp.einsum("b,b...->...", f, g), part)
    return total


def by_two_loops(run, training, batch_sizes, ema=None, wrong_noise=False):
    """What a reader would write: each stage a loop with batches, norms and optimizer of its own."""
    plan, model = run.plan, run.model
    loss = plan.task.loss_fn(model.graphdef)
    sampler = sampler_for(plan.mechanism, run.run_key)
    names = set(model.trainable)
    body = names - {"classifier"}
    frozen = jax.tree.map(jnp.asarray, model.frozen)
    trainable = jax.tree.map(jnp.copy, model.trainable)
    head_rate = dataclasses.replace(
        training, learning_rate=training.head_learning_rate, head_learning_rate=None
    )
    stages = [
        (head_rate, {"classifier"}, [({"classifier"}, 0.2)], range(3)),
        (training, names, [({"classifier"}, 0.2), (body, 0.5)], range(3, 6)),
    ]
    for (recipe, chosen, norms, steps), batch_size in zip(stages, batch_sizes, strict=True):
        params = {name: trainable[name] for name in chosen}
        optimizer = make_optimizer(recipe, len(steps))
        optimizer = optimizer if ema is None else keep_average(optimizer, ema)
        state = optimizer.init(params)
        sensitivity = sum(norm**2 for _, norm in norms) ** 0.5
        mechanism = DPSGD(
            num_units=240, expected_batch_size=batch_size, noise_multiplier=4.0, num_steps=6
        )

        def loss_of(params, record, frozen, rest=trainable):
            return loss(rest | params, record, frozen)

        for step in steps:
            rows = sampler.indices(step)
            batch = plan.task.batch(plan.train.take(rows))
            total = clipped_sum(loss_of, params, frozen, batch, norms)
            total = {name: total[name] for name in params}
            mean = noisy_mean(
                total,
                run.run_key.noise_keys(step),
                mechanism=mechanism,
                clip_norm=0.2 if wrong_noise else sensitivity,
            )
            updates, state = optimizer.update(mean, state, params)
            params = optax.apply_updates(params, updates)
        trainable |= params if ema is None else average_of(state, params)
    return trainable


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, 0.5])
def test_two_loops_with_the_same_draws_come_to_the_same(options, trained, ema):
    options["training"] |= {"ema_decay": ema, "optimizer": "sgd"}
    result, found = trained(options)
    run = make_run(options | {"output_dir": options["output_dir"].with_name("other")})
    recipe = {"optimizer": "sgd", "learning_rate": 1e-2, "head_learning_rate": 0.05}
    recipe = Training(**recipe)
    expected = by_two_loops(run, recipe, (100, 40), ema)
    assert assert_close(found, expected) < 1e-6
    # With the noise of the first stage in the second, or batches of one size, it would not.
    assert assert_close(found, by_two_loops(run, recipe, (100, 40), ema, wrong_noise=True)) > 1e-5
    assert assert_close(found, by_two_loops(run, recipe, (40, 40), ema)) > 1e-5
    # One key, one report, one ε: that of the composition.
    segments = tuple(
        Segment(expected_batch_size=batch, noise_multiplier=4.0, num_steps=3) for batch in (100, 40)
    )
    assert result.epsilon == DPSGDSchedule(num_units=240, segments=segments).epsilon(1e-5)
    assert [row["step"] for row in result.metrics] == [1, 2, 3, 4, 5, 6]
    assert result.metrics[-1]["epsilon"] == result.epsilon
