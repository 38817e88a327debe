"""The steps that are compiled: those of a run, lowered for TPUs without their compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh

from benchmarks.aot.counts import matmul_flops
from benchmarks.aot.measure import held_by_class, measure_private
from benchmarks.aot.steps import make_steps
from benchmarks.support.models import CONFIGS, abstract_split
from dpjax.models import Loading, count_parameters
from dpjax.privatize.devices.spread_sums import shardings_of

LOADING = Loading(dtype="bfloat16", scan_layers=True, rematerialise=True)


def tiny(tuning, fsdp=2):
    mesh = AbstractMesh((2, fsdp, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    split = abstract_split("tiny", tuning=tuning, rank=4, loading=LOADING)
    return make_steps(split, mesh, batch_size=8, length=32, vocab_chunk=128)


@pytest.mark.parametrize(
    ("tuning", "strategy"),
    [
        ("lora", "one_backward"),
        pytest.param("lora", "two_backwards", marks=pytest.mark.slow),
        pytest.param("full", "one_backward", marks=pytest.mark.slow),
        pytest.param("full", "two_backwards", marks=pytest.mark.slow),
    ],
)
def test_the_programs_of_a_run_lower_for_tpus(tuning, strategy):
    steps = tiny(tuning)
    shapes = steps.shapes
    private = steps.private(strategy)._private
    total, where = private._abstract_total(shapes.params), shardings_of(shapes.params)
    add = private._compiled_add.trace(
        total, shapes.params, shapes.batch, shapes.mask, shapes.frozen, shardings=where
    )
    text = add.lower(lowering_platforms=("tpu",)).as_text()
    assert '"data"=2, "fsdp"=2' in text
    # The sums stay where the parameters lie.
    assert text.count("sdy.sharding_constraint") >= len(jax.tree.leaves(shapes.params))


def test_shapes_say_where_sums_lie():
    steps = tiny("full")
    params = steps.shapes.params
    grads = steps.private("auto")._private._abstract_total(params).grads
    for grad, param in zip(jax.tree.leaves(grads), jax.tree.leaves(params), strict=True):
        assert grad.sharding == param.sharding
        assert grad.dtype == jnp.float32


def test_a_device_holds_its_part():
    whole, halves = held_by_class(tiny("full", fsdp=1)), held_by_class(tiny("full", fsdp=2))
    assert whole["optimizer"] == pytest.approx(2 * whole["parameters_trained"], rel=1e-4)
    # Vectors stay whole.
    assert 0.5 <= halves["sums"] / whole["sums"] < 0.52
    # 8 records shared by two devices: ids, two masks of tokens, one of records.
    assert whole["batch"] == 4 * 32 * (4 + 1 + 1) + 4


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        pytest.param("llama-3.2-1b", 1_235_814_400, marks=pytest.mark.slow),
        ("llama-3-8b", 8_030_261_248),
        ("qwen2.5-7b", 7_615_616_512),
    ],
)
def test_models_have_as_many_parameters_as_published(name, published):
    loading = Loading(dtype="bfloat16", scan_layers=True)
    split = abstract_split(name, tuning="full", rank=1, loading=loading)
    assert count_parameters(split.trainable) == published


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"got 'gtp2'\. Did you mean 'gpt2'"):
        abstract_split("gtp2", tuning="full", rank=1, loading=LOADING)
    assert "gpt2" in CONFIGS


def test_products_are_counted_in_loops_and_branches():
    x = jnp.zeros((4, 4))

    def fn(x):
        x, _ = jax.lax.scan(lambda x, _: (jax.checkpoint(jnp.dot)(x, x), None), x, None, length=3)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert matmul_flops(fn, x) == {"model": 5 * 2 * 4**3}


def test_products_in_a_scope_are_counted_apart():
    x = jnp.zeros((4, 4))

    @jax.named_scope("example_norms")
    def norms(x):
        # A scope around a loop is one of what is inside.
        gram = jax.named_scope("gram")(jnp.dot)
        x, _ = jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=3)
        return gram(x, x)

    found = matmul_flops(jax.vmap(lambda x: norms(x) + jnp.dot(x, x)), x[None])
    assert found == {"example_norms": 3 * 128, "gram": 128, "model": 128}


@pytest.mark.slow
def test_two_backward_passes_multiply_more_than_an_ordinary_step():
    steps = tiny("full")
    shapes = steps.shapes
    arguments = (shapes.params, shapes.state, shapes.batch, shapes.mask, shapes.frozen)
    ordinary = sum(matmul_flops(steps.ordinary, *arguments).values())
    private = steps.private("two_backwards")
    total = jax.eval_shape(lambda params: private.zeros(params, 0), shapes.params)
    twice = matmul_flops(private.add, total, *arguments[:1], *arguments[2:])
    assert 1.3 < sum(twice.values()) / ordinary < 2
    assert 0 < twice["gram"] < ordinary


def test_costs_of_the_private_step_are_those_of_its_programs():
    """With the compiler that is here; that for TPUs is not everywhere."""
    devices = np.array(jax.devices()[:1]).reshape(1, 1, 1)
    mesh = Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    split = abstract_split("tiny", tuning="lora", rank=4, loading=LOADING)
    steps = make_steps(split, mesh, batch_size=4, length=16, vocab_chunk=None)
    cost = measure_private(steps, "one_backward", 1)
    assert cost.refusal is None and not cost.collectives
    assert cost.peak > sum(held_by_class(steps).values())
    ordinary = matmul_flops(
        steps.ordinary,
        *(steps.shapes.params, steps.shapes.state, steps.shapes.batch, steps.shapes.mask),
        steps.shapes.frozen,
    )
    assert sum(ordinary.values()) < cost.flops < 3 * sum(ordinary.values())
    assert cost.flops == sum(cost.multiplied.values())
