"""Adam with its schedules: no step is wasted, the head may have a rate of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax.finetuning.config import Training
from dpjax.finetuning.setup.optimizer import make_optimizer
from dpjax.training import scale_by_adam_bc


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup_fraction", "num_steps"), [(0.0, 20), (0.25, 20), (0.5, 1)])
def test_no_step_is_wasted_on_a_zero_learning_rate(schedule, warmup_fraction, num_steps):
    training = Training(learning_rate=0.1, schedule=schedule, warmup_fraction=warmup_fraction)
    optimizer = make_optimizer(training, num_steps)
    params = jnp.zeros(3)
    state, sizes = optimizer.init(params), []
    for _ in range(num_steps):
        update, state = optimizer.update(jnp.ones(3), state, params)
        sizes.append(float(-update[0]))
    assert min(sizes) > 0
    assert max(sizes) == pytest.approx(0.1, rel=1e-3)
    if warmup_fraction == 0.25:
        assert np.all(np.diff(sizes[:6]) > 0)
    if schedule != "constant" and num_steps > 1:
        assert sizes[-1] < 0.2 * max(sizes)


def test_the_head_may_have_a_learning_rate_of_its_own():
    params = {"classifier": {"kernel": jnp.zeros(2)}, "encoder": {"layers": {0: jnp.zeros(3)}}}
    plain = Training(learning_rate=0.01)
    both = dataclasses.replace(plain, head_learning_rate=0.03)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates = []
    for training in (plain, both):
        optimizer = make_optimizer(training, 10)
        updates.append(optimizer.update(gradients, optimizer.init(params), params)[0])
    one, other = updates
    np.testing.assert_array_equal(other["encoder"]["layers"][0], one["encoder"]["layers"][0])
    np.testing.assert_allclose(
        other["classifier"]["kernel"], 3.0 * one["classifier"]["kernel"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": "adam"}, optax.adam(0.01)),
        ({"optimizer": "adamw", "weight_decay": 0.3}, optax.adamw(0.01, weight_decay=0.3)),
        ({"optimizer": "sgd", "momentum": 0.7}, optax.sgd(0.01, momentum=0.7)),
        (
            {"optimizer": "adam-bc"},
            optax.chain(scale_by_adam_bc(0.5), optax.scale_by_learning_rate(0.01)),
        ),
    ],
)
def test_optimizers_are_optax_by_name(options, expected):
    training = Training(learning_rate=0.01, schedule="constant", warmup_fraction=0.0, **options)
    params, gradients = jnp.array([1.0, -2.0]), jnp.array([[0.9, 0.1], [-0.7, 1.3]])
    found = []
    for optimizer in (make_optimizer(training, 5, noise_stddev=0.5), expected):
        state = optimizer.init(params)
        for gradient in gradients:
            update, state = optimizer.update(gradient, state, params)
        found.append(update)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamax"}, "training.optimizer must be one of .*Did you mean 'adam"),
        ({"momentum": 0.5}, "training.momentum is for training.optimizer=sgd, got adam"),
        (
            {"optimizer": "sgd", "weight_decay": 0.1},
            "training.weight_decay is for .*adamw",
        ),
        ({"optimizer": "sgd", "momentum": 1.5}, "training.momentum must be"),
        ({"optimizer": "adamw", "weight_decay": -1.0}, "training.weight_decay must be at least 0"),
    ],
)
def test_options_of_another_optimizer_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Training(**options)
