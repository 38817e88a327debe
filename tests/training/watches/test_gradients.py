"""What is trained without a gradient is named, although noise moves it."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD
from rich.console import Console

import dpjax
from dpjax.privatize import StepTotal
from dpjax.training.watches.gradients import GradientWatch

QUIET = Console(quiet=True)


def run_of(loss, params, *, num_steps=4, batch=20, **options):
    mechanism = DPSGD(
        num_units=20, expected_batch_size=batch, noise_multiplier=1.0, num_steps=num_steps
    )
    return dpjax.fit(
        loss,
        params,
        np.linspace(1, 2, 20, dtype=np.float32),
        mechanism=mechanism,
        optimizer=optax.sgd(0.1),
        clip_norm=1.0,
        run_key=dpjax.RunKey.from_seed(1),
        **options,
    )


def test_a_parameter_that_the_loss_does_not_reach_is_named():
    def loss(params, x):
        stopped = jax.lax.stop_gradient(params["head"]["kernel"])
        return jnp.sum((params["bias"] - x) ** 2) + jnp.sum(stopped)

    params = {"bias": jnp.zeros(()), "head": {"kernel": jnp.zeros(2)}}
    with pytest.warns(UserWarning, match=r"first 3 steps for head\.kernel: nothing is learnt"):
        result = run_of(loss, params).run(QUIET)
    # Its noise would hide it from whoever only looks whether values move.
    assert np.all(result.params["head"]["kernel"] != 0)


def test_an_adapter_whose_second_factor_starts_at_zero_is_trained():
    params = {"a": jnp.ones(2), "b": jnp.zeros(2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_of(lambda params, x: (params["a"] @ params["b"] - x) ** 2, params).run(QUIET)


def test_steps_without_records_do_not_count():
    watch = GradientWatch(num_steps=2)
    empty = StepTotal.zeros({"w": jnp.zeros(3)})
    for _ in range(5):
        watch.look(empty)
        assert watch.remark(0) is None
    watch.look(empty)
    assert watch.remark(7) is None
    watch.look(empty)
    assert "first 2 steps for w" in watch.remark(7)
    watch.look(empty)
    assert watch.remark(7) is None


def test_a_gradient_in_one_of_the_steps_is_enough_and_many_names_are_counted():
    watch = GradientWatch(num_steps=2)
    zeros = {f"w{number}": jnp.zeros(1) for number in range(8)}
    for moved in ("w3", "w1"):
        grads = zeros | {moved: jnp.ones(1)}
        watch.look(dataclasses.replace(StepTotal.zeros(zeros), grads=grads))
        remark = watch.remark(3)
    assert "for w0, w2, w4, w5, w6 and 1 more: nothing" in remark
