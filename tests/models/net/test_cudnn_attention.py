"""Attention by cuDNN's kernel: what it is given, and that programs with it are lowered for one.

No GPU is needed: lowering for CUDA stops before the kernel itself.
"""

import itertools
import re

import jax
import jax._src.cudnn.fused_attention_stablehlo as fused
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dpjax.models.net.attention as attention
from dpjax.privatize import clipped_grad
from tests.support.slow import mark_slow
from tests.support.tiny_checkpoints import ragged_batch, random_model

CALLS = re.compile(r"custom_call @__cudnn\$(\w+)\(.* : \((.*?)\) ->")


@pytest.fixture
def a_cudnn(monkeypatch):
    """As on a machine with a recent GPU, until something is to be run."""
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)


@pytest.fixture
def in_xla(monkeypatch):
    """JAX's own implementation in the place of the kernel; returns how often it was called."""
    calls, own = [], jax.nn.dot_product_attention

    def stand_in(*arguments, implementation, **options):
        calls.append(implementation)
        return own(*arguments, implementation="xla", **options)

    monkeypatch.setattr(attention.jax.nn, "dot_product_attention", stand_in)
    return calls


def arguments(lead=(), num_queries=6, groups=2, causal=True):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((num_queries, 4, 8), (6, groups, 8), (6, groups, 8))
    parts = [jax.random.normal(k, (*lead, *s)) for k, s in zip(keys, shapes, strict=False)]
    key_mask = jax.random.bernoulli(keys[3], 0.7, (*lead, 6)).at[..., 0].set(True)
    first = 6 - num_queries
    return *parts, attention.visible(key_mask, num_queries, first, causal, 4 * causal)


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("groups", "lead"),
    mark_slow(
        itertools.product([1, 2, 4], [(), (3,), (2, 3)]),
        lambda groups, lead: lead == (3,) or (lead == (2, 3) and groups != 2),
    ),
)
@pytest.mark.parametrize(("num_queries", "causal"), [(6, True), (2, True), (6, False)])
def test_the_kernel_is_given_what_einsum_is(lead, groups, num_queries, causal, in_xla):
    parts = arguments(lead, num_queries, groups, causal)
    expected = attention.attend(*parts, scale=0.3)
    found = attention.attend(*parts, scale=0.3, implementation="cudnn")
    assert in_xla == ["cudnn"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_does_not_fit_the_kernel_is_left_to_einsum(in_xla):
    parts = arguments(num_queries=1)
    np.testing.assert_array_equal(
        attention.attend(*parts, scale=0.3, implementation="cudnn"),
        attention.attend(*parts, scale=0.3),
    )
    attention.attend(*arguments(), scale=0.3, softcap=2.0, implementation="cudnn")
    assert in_xla == []


def loss_of(graphdef):
    def loss(parameters, example):
        ids, mask = example
        logits = nnx.merge(graphdef, parameters)(ids, mask)
        return jnp.sum(jnp.where(mask[..., None], jnp.sin(logits), 0.0))

    return loss


@pytest.mark.parametrize(
    ("scan_layers", "strategy"),
    [
        (False, "materialize"),
        (False, "two_backwards"),
        (True, "one_backward"),
        (True, "two_backwards"),
    ],
)
def test_clipped_gradients_are_lowered_for_a_gpu_with_the_batch_in_one_call(
    scan_layers, strategy, a_cudnn
):
    changes = {"scan_layers": scan_layers, "rematerialise": scan_layers}
    model = random_model("mistral", "causal_lm", dtype="bfloat16", attention="cudnn", **changes)
    graphdef, state = nnx.split(model)
    clipped = clipped_grad(loss_of(graphdef), clip_norm=0.1, strategy=strategy)
    lowered = (
        jax.jit(lambda state, batch: clipped(state, batch).grads)
        .trace(nnx.to_pure_dict(state), ragged_batch())
        .lower(lowering_platforms=("cuda",))
    )
    calls = CALLS.findall(lowered.as_text())
    names = [name for name, _ in calls]
    assert {"fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"} == set(names)
    # Four texts of 14 tokens, four heads of eight numbers; two heads for keys and values.
    query, key, bias = "tensor<4x14x4x8xbf16>", "tensor<4x14x2x8xbf16>", "tensor<4x4x14x14xbf16>"
    for name, operands in calls:
        assert operands.startswith(f"{query}, {key}, {key}, ")
        assert bias in operands, name


def test_settings_that_the_kernel_cannot_take_are_refused():
    for family, changes, message in (
        ("gpt2", {"dtype": "float32"}, "computes in bfloat16"),
        ("gemma2", {"dtype": "bfloat16"}, "without a cap on scores"),
        ("qwen3", {"dtype": "bfloat16"}, "multiple of 8 numbers, at most 256; .* have 12"),
        ("gpt2", {"attention": "flash"}, "attention must be one of einsum, cudnn"),
    ):
        with pytest.raises(ValueError, match=message):
            random_model(family, "causal_lm", **{"attention": "cudnn"} | changes)
