import jax
import numpy as np
import pytest
from flax import nnx

from dpjax.models import (
    Loading,
    LoraConfig,
    LoraLinear,
    LoraParam,
    add_lora,
    base_model,
    load_classifier,
    merge_lora,
)
from tests.support.tiny_checkpoints import random_model


def adapted(model):
    """The adapted layers of a model."""
    nodes = nnx.iter_graph(model)
    return [node for _, node in nodes if isinstance(node, LoraLinear)]


def adapt(model, target_modules="all-linear", rank=4, alpha=6.0, **options):
    config = LoraConfig(rank=rank, alpha=alpha, target_modules=target_modules, **options)
    add_lora(model, config, key=jax.random.key(1))


def randomise(model):
    """Give A and B random values, so that the adapters do something."""
    for index, layer in enumerate(adapted(model)):
        a, b = jax.random.split(jax.random.key(index))
        layer.lora_a[...] = 0.2 * jax.random.normal(a, layer.lora_a.shape)
        layer.lora_b[...] = 0.2 * jax.random.normal(b, layer.lora_b.shape)


def test_fresh_adapters_change_nothing(model, batch):
    before = np.asarray(model(*batch))
    adapt(model)
    np.testing.assert_array_equal(model(*batch), before)


def test_initial_values_are_those_of_peft(model):
    adapt(model, rank=8)
    layer = model.transformer.layers[0].mlp.down_proj
    a = np.asarray(layer.lora_a[...])
    assert a.shape == (40, 8)
    assert layer.lora_b.shape == (8, 24)
    assert isinstance(layer.lora_a, LoraParam)
    assert not np.asarray(layer.lora_b[...]).any()
    bound = 1 / np.sqrt(40)
    assert 0.9 * bound < np.abs(a).max() <= bound
    np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.15)
    others = [np.asarray(x.lora_a[...]) for x in adapted(model) if x is not layer]
    assert all(a.shape != other.shape or not np.allclose(a, other) for other in others)


def test_a_frozen_a_starts_as_a_trained_one(model, batch):
    before = np.asarray(model(*batch))
    adapt(model, ("query",), freeze_a=True)
    layer = model.transformer.layers[0].self_attn.q_proj
    assert not isinstance(layer.lora_a, LoraParam)
    assert isinstance(layer.lora_b, LoraParam)
    assert np.asarray(layer.lora_a[...]).any()
    np.testing.assert_array_equal(model(*batch), before)


def test_adapter_adds_the_scaled_product(model):
    adapt(model, rank=4, alpha=6.0)
    randomise(model)
    layer = model.transformer.layers[1].mlp.up_proj
    x = jax.random.normal(jax.random.key(5), (3, 24))
    a, b, kernel, bias = (
        np.asarray(p[...]) for p in (layer.lora_a, layer.lora_b, layer.base.kernel, layer.base.bias)
    )
    np.testing.assert_allclose(layer(x), x @ (kernel + 1.5 * a @ b) + bias, atol=1e-5)


@pytest.mark.parametrize("freeze_a", [False, True])
def test_merging_keeps_the_logits_and_restores_the_structure(model, batch, freeze_a):
    structure = jax.tree.structure(nnx.to_pure_dict(nnx.state(model)))
    untouched = np.asarray(model(*batch))
    adapt(model, freeze_a=freeze_a)
    randomise(model)
    expected = np.asarray(model(*batch))
    assert np.abs(expected - untouched).max() > 0.01
    merge_lora(model)
    np.testing.assert_allclose(model(*batch), expected, atol=1e-5)
    assert jax.tree.structure(nnx.to_pure_dict(nnx.state(model))) == structure
    assert not adapted(model)


@pytest.mark.parametrize(
    ("target_modules", "expected"),
    [
        ("all-linear", 13),
        (("query", "value"), 4),
        (["query"], 2),
        (("dense",), 7),
        (("output.dense",), 4),
        (("attention.output.dense",), 2),
        (("encoder.layer.1.attention.self.query",), 1),
        (("pooler.dense", "key"), 3),
    ],
)
def test_targets_are_named_as_in_transformers(model, target_modules, expected):
    adapt(model, target_modules)
    assert len(adapted(model)) == expected
    assert not isinstance(model.classifier, LoraLinear)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(r".*\.(query|value)", 4), (r"bert\.encoder\.layer\.1\..*dense", 3), (".*pooler.*", 1)],
)
def test_a_string_is_a_pattern_of_whole_names(model, pattern, expected):
    adapt(model, pattern)
    assert len(adapted(model)) == expected


def test_what_is_saved_in_full_gets_no_adapter(model):
    adapt(model, "all-linear", modules_to_save=("encoder.layer.0", "pooler"))
    assert len(adapted(model)) == 6


@pytest.mark.parametrize(("use_rslora", "expected"), [(False, 1.5), (True, 3.0)])
def test_scaling(model, use_rslora, expected):
    adapt(model, ("query",), rank=4, alpha=6.0, use_rslora=use_rslora)
    assert adapted(model)[0].scaling == expected


def test_stacked_layers_are_adapted_together_or_not_at_all():
    model = random_model("qwen3", "causal_lm", scan_layers=True)
    for options in (
        {"target_modules": r".*layers\.0\..*_proj"},
        {"target_modules": "all-linear", "layers_to_transform": (0,)},
        {"target_modules": ("q_proj",), "modules_to_save": ("layers.0.mlp",)},
    ):
        with pytest.raises(ValueError, match=r"in 1 of 2 layers.*scan_layers=False"):
            adapt(model, **options)
    adapt(model, ("q_proj",))
    assert adapted(model)[0].lora_a.shape == (2, 32, 4)


def test_a_tied_head_is_named_by_its_embedding():
    model = random_model("gpt2", "causal_lm")
    with pytest.raises(ValueError, match=r"head is tied to transformer\.wte: name that"):
        adapt(model, modules_to_save=("lm_head",))


def test_adapters_are_float32_on_a_base_in_bfloat16(folder, batch):
    model = load_classifier(
        folder,
        label_names=("a", "b", "c"),
        key=jax.random.key(0),
        loading=Loading(param_dtype="bfloat16"),
    )
    adapt(model)
    layer = adapted(model)[0]
    assert {layer.lora_a.dtype, layer.lora_b.dtype} == {np.dtype("float32")}
    assert layer.base.kernel.dtype == "bfloat16"
    assert np.isfinite(np.asarray(model(*batch))).all()
    merge_lora(model)
    assert model.transformer.layers[0].self_attn.q_proj.kernel.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("target_modules", "expected"), [("all-linear", 6), (("query", "pooler.dense"), 1)]
)
def test_adapters_in_some_layers_only(model, target_modules, expected):
    adapt(model, target_modules, layers_to_transform=(1,))
    assert len(adapted(model)) == expected
    assert isinstance(model.transformer.layers[1].self_attn.q_proj, LoraLinear)
    assert not isinstance(model.transformer.layers[0].self_attn.q_proj, LoraLinear)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_modules": ("quer", "value")}, r"'quer' matches no linear.*mean 'query'"),
        ({"target_modules": ("ery",)}, "there are dense, key, query, value"),
        ({"target_modules": ("LayerNorm",)}, "matches no linear layer"),
        ({"target_modules": ("classifier",)}, "a head gets no adapter"),
        ({"target_modules": ("dense", "LayerNorm")}, "of kind norm.*modules_to_save"),
        ({"target_modules": r".*layer\.1.*"}, "also matches .*LayerNorm, a module of kind norm"),
        ({"target_modules": "(dense"}, r"'\(dense' is not a regular expression"),
        ({"modules_to_save": ("LayerNrm",)}, "'LayerNrm' is no module.*mean 'LayerNorm'"),
        ({"modules_to_save": ("encoder", "pooler")}, "all target modules lie in modules_to_save"),
        ({"target_modules": "query"}, r"'query' matches no whole name.*write \('query',\)"),
        ({"target_modules": ()}, "target_modules is empty"),
        ({"rank": 0}, "lora.rank must be a whole number of at least 1, got 0"),
        ({"rank": -2}, "lora.rank must be a whole number of at least 1, got -2"),
        ({"rank": 1.5}, "lora.rank must be a whole number of at least 1, got 1.5"),
        ({"layers_to_transform": (1, 2)}, r"is \[1, 2\]; layers with a target module are \[0, 1\]"),
        ({"layers_to_transform": ()}, r"layers_to_transform is \[\]"),
        ({"alpha": 0.0}, "lora.alpha must be positive and finite, got 0.0"),
    ],
)
def test_bad_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        adapt(model, **arguments)
    assert not adapted(model)


def test_adapters_twice_are_refused(model):
    adapt(model, ("query",))
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        adapt(model, ("value",))


def language_model(**options):
    model = random_model("llama", "causal_lm", **options)
    adapt(model)
    randomise(model)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_base_is_the_model_before_adapters_and_shares_its_arrays(scan_layers):
    ids = np.random.default_rng(0).integers(3, 61, (2, 9))
    mask = np.ones((2, 9), bool)
    before = np.asarray(random_model("llama", "causal_lm", scan_layers=scan_layers)(ids, mask))
    tuned = language_model(scan_layers=scan_layers)
    logits = np.asarray(tuned(ids, mask))
    base = base_model(tuned)
    np.testing.assert_array_equal(base(ids, mask), before)
    np.testing.assert_array_equal(tuned(ids, mask), logits)
    assert np.abs(logits - before).max() > 0.01
    assert base.lora is None and tuned.lora is not None
    arrays = {id(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(tuned)))}
    assert {id(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(base)))} < arrays


def test_a_model_that_does_not_hold_its_base_is_refused(model):
    with pytest.raises(TypeError, match="model must be a CausalLM, got a SequenceClassifier"):
        base_model(model)
    with pytest.raises(ValueError, match="model must have adapters, got one without"):
        base_model(random_model("llama", "causal_lm"))
    saved = random_model("llama", "causal_lm")
    adapt(saved, modules_to_save=("embed_tokens",))
    with pytest.raises(ValueError, match="embed_tokens were trained in full"):
        base_model(saved)
