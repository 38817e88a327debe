"""Several models at once under `jax.vmap`: the same sums, and memory counted for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.privatize import clipped_grad
from dpjax.privatize.structured import clipped_sums
from dpjax.privatize.structured.costs.choice import choose

MODELS, BATCH = 3, 4


def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]))


def tables():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(MODELS, 5, 2)), "b": rng.normal(size=(MODELS, 2))}
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    batch = jnp.asarray(rng.normal(size=(MODELS, BATCH, 6, 5)), jnp.float32)
    return params, batch, jnp.asarray(rng.random((MODELS, BATCH)) < 0.7)


@pytest.mark.parametrize("strategy", ["materialize", "one_backward", "two_backwards", "auto"])
@pytest.mark.parametrize("num_vmapped", [1, MODELS, 10**6])
def test_mapped_over_models_it_is_a_loop_over_models(strategy, num_vmapped):
    params, batch, mask = tables()
    clipped = clipped_grad(loss, clip_norm=0.5, strategy=strategy, num_vmapped=num_vmapped)
    together = jax.jit(jax.vmap(lambda *args: clipped(*args).grads))(params, batch, mask)
    alone = clipped_grad(loss, clip_norm=0.5, strategy="materialize")
    for model in range(MODELS):
        one = jax.tree.map(lambda leaf, model=model: leaf[model], (params, batch, mask, together))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one[3], alone(*one[:3]).grads
        )


@pytest.mark.parametrize(("num_vmapped", "at_once"), [(1, BATCH), (50, 50 * BATCH)])
def test_limits_are_those_of_all_batches_together(monkeypatch, num_vmapped, at_once):
    seen = []
    choose = clipped_sums.choose
    monkeypatch.setattr(
        clipped_sums,
        "choose",
        lambda program, size, memory: seen.append(size) or choose(program, size, memory),
    )
    budget = clipped_sums.Budget
    monkeypatch.setattr(
        clipped_sums, "Budget", lambda values, size: seen.append(size) or budget(values, size)
    )
    params, batch, mask = (jax.tree.map(lambda leaf: leaf[0], part) for part in tables())
    clipped_grad(loss, clip_norm=1.0, num_vmapped=num_vmapped)(params, batch, mask)
    assert seen == [at_once, at_once]


def test_many_batches_together_no_longer_fit():
    """What is kept of 16 examples fits, of 1600 it does not, whichever batches they come from."""
    memory = 16 * 2**27
    shapes = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    rows = jax.ShapeDtypeStruct((16, 64, 512), jnp.float32)

    def dense(params, x):
        for _ in range(4):
            x = jnp.tanh(x @ params["w"])
        return jnp.sum(x)

    def program(**options):
        clipped = clipped_grad(dense, clip_norm=1.0, device_memory=memory, **options)
        return str(jax.make_jaxpr(lambda *args: clipped(*args).grads)(shapes, rows))

    gradient = clipped_sums.gradient_program(
        dense, False, shapes, jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
    )
    few, many = (choose(gradient, number, memory).strategy for number in (16, 1600))
    assert (few, many) == ("one_backward", "two_backwards")
    assert program() != program(num_vmapped=100)
    assert program(num_vmapped=100) == program(num_vmapped=100, strategy=many)


def test_no_call_is_refused():
    with pytest.raises(ValueError, match="num_vmapped must be at least 1, got 0"):
        clipped_grad(loss, clip_norm=1.0, num_vmapped=0)
