"""Ranks by name, layers left out, biases and DoRA: what is trained, and exactly clipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dpjax.models import (
    CausalLM,
    LoraConfig,
    LoraLinear,
    Trainable,
    add_lora,
    base_model,
    drop_inputs,
    fresh_lora,
    merged_copy,
    split_trainable,
)
from dpjax.privatize import clipped_grad
from tests.support.tiny_checkpoints import random_model

CLIP_NORM = 0.5


def adapt(model, **options):
    options = {"rank": 3, "alpha": 6.0} | options
    add_lora(model, LoraConfig(**options), key=jax.random.key(1))
    return model


def layers_of(model):
    nodes = nnx.iter_graph(model)
    return {".".join(map(str, p)): n for p, n in nodes if isinstance(n, LoraLinear)}


def names_of(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]


def moved(split):
    """The model with other values of all that is trained."""

    def move(path, leaf):
        key = jax.random.key(len(jax.tree_util.keystr(path)))
        return leaf + 0.2 * jax.random.normal(key, leaf.shape)

    return split.replace(trainable=jax.tree_util.tree_map_with_path(move, split.trainable))


def test_ranks_and_alphas_by_name():
    options = {"rank_pattern": ("q_proj=2", r".*1\.mlp\.up_proj=5"), "alpha_pattern": ("q_proj=3",)}
    model = adapt(random_model("qwen3", "causal_lm"), use_rslora=True, **options)
    ranks = {name: (n.lora_a.shape[-1], n.scaling) for name, n in layers_of(model).items()}
    layers = "transformer.layers"
    assert ranks[f"{layers}.0.self_attn.q_proj"] == (2, 3 / 2**0.5)
    assert ranks[f"{layers}.0.mlp.up_proj"] == (3, 6 / 3**0.5)
    assert ranks[f"{layers}.1.mlp.up_proj"] == (5, 6 / 5**0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_pattern": ("q_prj=2",)}, r"'q_prj' means no adapted layer.*Did you mean 'q_proj'"),
        ({"rank_pattern": ("q_proj",)}, "'q_proj': give each as name=rank, such as down_proj=4"),
        ({"rank_pattern": ("q_proj=two",)}, "its rank must be a whole number, got 'two'"),
        ({"rank_pattern": ("q_proj=0",)}, "the rank of 'q_proj' must be positive and finite"),
        ({"rank_pattern": ("q_proj=2", "q_proj=3")}, "has 'q_proj' twice"),
        ({"rank_pattern": ("*=2",)}, r"the name '\*' is not a regular expression"),
        ({"alpha_pattern": ("q_proj=inf",)}, "the alpha of 'q_proj' must be positive and finite"),
        ({"alpha_pattern": ("k=1",)}, "'k' means no adapted layer"),
        ({"exclude_modules": ("q_prj",)}, "'q_prj' is none of .*Did you mean 'q_proj'"),
        ({"exclude_modules": ".*"}, "'.*' names all target modules"),
        ({"exclude_modules": "*"}, "is not a regular expression"),
        ({"bias": "lora"}, "lora.bias must be one of none, all, lora_only"),
        ({"bias": "all"}, "the model has no biases: leave it out"),
        ({"bias": "lora_only"}, "the adapted layers have no biases: leave it out"),
    ],
)
def test_options_that_are_refused(options, message):
    model = random_model("qwen3", "causal_lm")
    with pytest.raises(ValueError, match=message):
        adapt(model, **options)
    assert model.lora is None


def test_a_mapping_and_a_string_are_no_pattern():
    with pytest.raises(TypeError, match=r"sequence of name=rank: write \('q_proj=2',\)"):
        LoraConfig(rank_pattern={"q_proj": 2})
    with pytest.raises(TypeError, match=r"for one name write \('q_proj=2',\)"):
        LoraConfig(rank_pattern="q_proj=2")


def test_stacked_layers_have_one_rank():
    model = random_model("qwen3", "causal_lm", scan_layers=True)
    with pytest.raises(ValueError, match=r"layers\.1.*are stacked.*scan_layers=False"):
        adapt(model, rank_pattern=(r"layers\.1\..*q_proj=2",))
    adapt(model, rank_pattern=("q_proj=2",))
    assert model.transformer.layers.self_attn.q_proj.lora_a.shape == (2, 32, 2)


def test_layers_left_out():
    model = adapt(random_model("qwen3", "causal_lm"), exclude_modules=("mlp.up_proj", "q_proj"))
    assert {name.rpartition(".")[2] for name in layers_of(model)} == {
        *("k_proj", "v_proj", "o_proj", "gate_proj", "down_proj")
    }
    model = random_model("qwen3", "causal_lm")
    adapt(model, exclude_modules=r".*layers\.0.*")
    assert all(".layers.1." in f".{name}" for name in layers_of(model))


def test_biases_that_are_trained():
    trained = {}
    for bias in ("none", "lora_only", "all"):
        options = {"target_modules": ("c_attn",), "bias": bias}
        model = adapt(random_model("gpt2", "causal_lm"), **options)
        split = split_trainable(model, Trainable.lora())
        trained[bias] = {name for name in names_of(split.trainable) if name.endswith("bias")}
        every = trained[bias] | {n for n in names_of(split.frozen) if n.endswith("bias")}
    assert trained["none"] == set()
    layers = [f"transformer.layers.{layer}.self_attn.qkv_proj.base.bias" for layer in (0, 1)]
    assert trained["lora_only"] == set(layers)
    assert trained["all"] == every
    assert "transformer.norm.bias" in every
    with pytest.raises(ValueError, match="whose biases were trained in full"):
        base_model(model)


def test_biases_beside_a_head_for_masked_tokens_are_refused():
    with pytest.raises(ValueError, match=r"lora\.bias='all' is not supported beside a head"):
        adapt(random_model("bert", "masked_lm"), bias="all")


def test_dora_scales_columns_to_their_magnitudes():
    model = adapt(random_model("bert", "sequence_classification"), use_dora=True)
    layer = model.transformer.layers[0].mlp.up_proj
    x = jax.random.normal(jax.random.key(5), (7, 32))
    np.testing.assert_allclose(layer(x), layer.base(x), atol=1e-6)
    layer.lora_b[...] = 0.3 * jax.random.normal(jax.random.key(6), layer.lora_b.shape)
    layer.lora_magnitude[...] = 2 * layer.lora_magnitude[...]
    a, b, m, w, bias = (
        np.float64(part[...])
        for part in (layer.lora_a, layer.lora_b, layer.lora_magnitude, *vars_of(layer.base))
    )
    v = w + 2.0 * a @ b
    lengths = np.linalg.norm(v, axis=0)
    np.testing.assert_allclose(layer(x), x @ (v * m / lengths) + bias, atol=1e-5)
    # The lengths are constants to the gradient.
    outer = jax.random.normal(jax.random.key(7), (7, 48))
    graphdef, state = nnx.split(layer)
    gradients = jax.grad(lambda s: jnp.sum(outer * nnx.merge(graphdef, s)(x)))(
        nnx.to_pure_dict(state)
    )
    scaled = np.asarray(outer) * m / lengths
    expected = {
        "lora_a": 2.0 * np.asarray(x).T @ scaled @ b.T,
        "lora_b": 2.0 * a.T @ np.asarray(x).T @ scaled,
        "lora_magnitude": np.sum(np.asarray(outer) * (np.asarray(x) @ v) / lengths, axis=0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(gradients[name], value, rtol=1e-4, atol=1e-4)


def vars_of(base):
    return base.kernel, base.bias


def test_a_fresh_magnitude_is_that_of_the_base():
    model = adapt(random_model("qwen3", "causal_lm", scan_layers=True), use_dora=True)
    split = split_trainable(model, Trainable.lora())
    again = fresh_lora(moved(split).trainable, split.frozen, key=jax.random.key(0))
    for name in ("q_proj", "o_proj"):
        before, after = (
            tree["transformer"]["layers"]["self_attn"][name]["lora_magnitude"]
            for tree in (split.trainable, again)
        )
        np.testing.assert_array_equal(before, after)


CLIPPED = [
    ("gpt2", {"bias": "all", "rank_pattern": ("c_fc=2",)}, {}, "one_backward"),
    ("gpt2", {"use_dora": True, "bias": "lora_only"}, {"scan_layers": True}, "two_backwards"),
    ("qwen3", {"use_dora": True, "exclude_modules": ("o_proj",)}, {}, "one_backward"),
    ("gpt2", {"use_dora": True, "dropout": 0.3, "freeze_a": True}, {}, "auto"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "options", "changes", "strategy"), CLIPPED)
def test_clipped_gradients_are_those_of_single_examples(family, options, changes, strategy):
    model = adapt(random_model(family, "causal_lm", **changes), **options)
    split = moved(split_trainable(model, Trainable.lora()))

    def loss(trained, example):
        ids, key = example
        model = split.replace(trainable=trained).merge()
        if model.lora.dropout:
            drop_inputs(model, key=jax.random.wrap_key_data(key))
        logits = model(ids, jnp.ones(ids.shape, bool))
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits[:-1], ids[1:]))

    ids = jax.random.randint(jax.random.key(3), (3, 8), 3, 60)
    batch = ids, jax.random.key_data(jax.random.split(jax.random.key(9), 3))
    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(split.trainable, batch)
    norms = jax.vmap(optax.tree.norm)(gradients)
    factors = jnp.minimum(1.0, CLIP_NORM / norms)
    total = jax.tree.map(lambda leaf: jnp.tensordot(factors, leaf, 1), gradients)
    clip = clipped_grad(loss, clip_norm=CLIP_NORM, strategy=strategy)
    clipped = jax.jit(clip)(split.trainable, batch)
    np.testing.assert_allclose(clipped.norms, norms, rtol=2e-5)
    assert names_of(clipped.grads) == names_of(split.trainable)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, clipped.grads, total))
    assert difference <= 2e-5 * optax.tree.norm(total)
    # Every parameter counts in the norm: without one of them it would be another.
    shares = jax.tree.map(lambda leaf: jnp.sum(leaf**2), gradients)
    assert all(share > 1e-9 for share in jax.tree.leaves(shares))
    assert isinstance(merged_copy(split.merge()), CausalLM)
