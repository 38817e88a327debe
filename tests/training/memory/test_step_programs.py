"""Memory of the real programs of a step: of shapes as of arrays, less with fewer records."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD

from dpjax.privatize import FlatClipping, PoissonSampler, RunKey
from dpjax.training import NonPrivateTraining, PrivateTraining, StepPrograms

FEATURES = 96
PARAMS = {"w": np.zeros((FEATURES, FEATURES), np.float32), "b": np.zeros(FEATURES, np.float32)}
FROZEN = {"table": np.zeros((500, FEATURES), np.float32)}


def loss(params, record, frozen):
    x = jnp.tanh(frozen["table"][record] @ params["w"] + params["b"])
    return jnp.sum(x**2)


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def batch_of(size):
    return jax.ShapeDtypeStruct((size, 40), jnp.int32)


def make_steps(optimizer, private=True):
    key = RunKey.from_seed(0)
    if not private:
        return NonPrivateTraining(loss, optimizer, PoissonSampler(1000, 0.05, key), 50)
    mechanism = DPSGD(num_units=1000, expected_batch_size=50, noise_multiplier=1.0, num_steps=9)
    return PrivateTraining(loss, optimizer, mechanism, FlatClipping(1.0), key)


def make_programs(params, frozen, private=True):
    optimizer = optax.adam(1e-3)
    state = jax.eval_shape(optimizer.init, params)
    return StepPrograms(make_steps(optimizer, private), params, state, frozen, batch_of)


@pytest.fixture(scope="module")
def programs():
    return make_programs(shapes(PARAMS), shapes(FROZEN))


def test_shapes_have_the_memory_of_arrays(programs):
    concrete = make_programs(jax.tree.map(jnp.asarray, PARAMS), jax.tree.map(jnp.asarray, FROZEN))
    assert concrete.memory(8) == programs.memory(8)


def test_sizes_of_arrays(programs):
    memory = programs.memory(8)
    weights = 4 * (FEATURES * FEATURES + FEATURES)
    assert memory.trained == weights
    # Beside the sums: the loss, and five counts.
    assert memory.sums == weights + 6 * 4
    assert memory.frozen == 4 * 500 * FEATURES
    assert memory.optimizer == 2 * weights + 4
    assert memory.microbatch == 8 * 40 * 4
    assert memory.held < memory.peak


def test_memory_falls_with_the_microbatch(programs):
    peaks = [programs.memory(size).peak for size in (4, 32, 256)]
    assert peaks == sorted(peaks) and peaks[0] < peaks[-1]
    # What is held from step to step does not depend on it.
    assert programs.memory(4).held == programs.memory(256).held


def test_each_size_is_compiled_once(programs, monkeypatch):
    programs.memory(8)

    def compile(*args):
        raise AssertionError("compiled again")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    programs.memory(8)
    with pytest.raises(AssertionError, match="compiled again"):
        programs.memory(9)


def test_the_programs_are_those_of_a_step():
    """What is lowered for shapes computes what the loop computes."""
    optimizer = optax.sgd(0.5)
    steps = make_steps(optimizer)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), PARAMS)
    frozen = {"table": jax.random.normal(jax.random.key(1), (500, FEATURES))}
    state = optimizer.init(params)
    mask = jax.ShapeDtypeStruct((64,), jnp.bool_)
    add = steps.lower(params, state, batch_of(64), mask, frozen).add.compile()
    batch = jax.random.randint(jax.random.key(2), (64, 40), 0, 500)
    ones = jnp.ones(64, bool)
    lowered = add(steps.begin(params, 0)[0], params, batch, ones, frozen)
    called, _ = steps.add(*steps.begin(params, 0), batch, ones, frozen)
    for one, other in zip(jax.tree.leaves(lowered), jax.tree.leaves(called), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("private", [True, False])
def test_a_step_is_measured(private):
    programs = make_programs(shapes(PARAMS), shapes(FROZEN), private)
    assert min(programs.measure_seconds(4)) > 0
