import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from dpjax.models import (
    Loading,
    LoraConfig,
    Trainable,
    add_lora,
    count_parameters,
    load_classifier,
    split_trainable,
)
from tests.support.tiny_checkpoints import random_model


def leaf_names(tree):
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


@pytest.fixture
def lora_model(model):
    add_lora(
        model, LoraConfig(rank=2, alpha=2, target_modules=("query", "value")), key=jax.random.key(1)
    )
    return model


def test_lora_trains_adapters_and_head(lora_model):
    _, trainable, frozen = split_trainable(lora_model, Trainable.lora())
    adapters = [
        f"transformer.layers.{layer}.self_attn.{name}.{part}"
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
        for part in ("lora_a", "lora_b")
    ]
    assert leaf_names(trainable) == ["classifier.bias", "classifier.kernel", *adapters]
    assert count_parameters(trainable) == 24 * 3 + 3 + 4 * (24 * 2 + 2 * 24)
    assert not any("lora" in name or "classifier" in name for name in leaf_names(frozen))


def test_a_frozen_a_is_not_trained(model):
    targets = ("query", "value")
    key = jax.random.key(1)
    add_lora(model, LoraConfig(rank=2, alpha=2, target_modules=targets, freeze_a=True), key=key)
    _, trainable, frozen = split_trainable(model, Trainable.lora())
    assert count_parameters(trainable) == 24 * 3 + 3 + 4 * (2 * 24)
    assert not any("lora_a" in name for name in leaf_names(trainable))
    assert sum("lora_a" in name for name in leaf_names(frozen)) == 4


def test_full_tuning_trains_everything(model):
    graphdef, trainable, frozen = split_trainable(model, Trainable.full())
    assert frozen == {}
    assert count_parameters(trainable) == count_parameters(nnx.state(model))
    assert {"transformer.embed_tokens.embedding", "pooler.kernel"} <= set(leaf_names(trainable))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(trainable))
    nnx.merge(graphdef, trainable, frozen)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_per_example_gradients_of_the_merged_model_equal_a_loop(shallow_model, batch, tuning):
    if tuning == "lora":
        targets = ("query", "output.dense")
        add_lora(
            shallow_model,
            LoraConfig(rank=2, alpha=2, target_modules=targets),
            key=jax.random.key(1),
        )
    graphdef, trainable, frozen = split_trainable(shallow_model, Trainable(tuning))
    # B starts at zero, where the gradient of A vanishes.
    trainable = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.05, trainable)

    def loss(trainable, ids, mask):
        return nnx.merge(graphdef, trainable, frozen)(ids, mask)[0]

    batched = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0, 0)))
    values, gradients = batched(trainable, *batch)
    np.testing.assert_allclose(
        values, nnx.merge(graphdef, trainable, frozen)(*batch)[:, 0], atol=1e-5
    )
    one = jax.jit(jax.grad(loss))
    for index, (ids, mask) in enumerate(zip(*batch, strict=True)):
        jax.tree.map(
            lambda g, e, index=index: np.testing.assert_allclose(g[index], e, rtol=1e-3, atol=1e-5),
            gradients,
            one(trainable, ids, mask),
        )
    assert all(bool(jnp.abs(leaf).max() > 0) for leaf in jax.tree.leaves(gradients))


def test_training_changes_what_is_trained_and_the_original_stays(lora_model, batch):
    graphdef, trainable, frozen = split_trainable(lora_model, Trainable.lora())
    before = np.asarray(lora_model(*batch))
    optimizer = optax.adam(0.1)
    opt_state = optimizer.init(trainable)

    @jax.jit
    def step(trainable, opt_state):
        def loss(trainable):
            return nnx.merge(graphdef, trainable, frozen)(*batch)[:, 0].mean()

        value, gradients = jax.value_and_grad(loss)(trainable)
        updates, opt_state = optimizer.update(gradients, opt_state, trainable)
        return value, optax.apply_updates(trainable, updates), opt_state

    first, trainable, opt_state = step(trainable, opt_state)
    for _ in range(3):
        last, trainable, opt_state = step(trainable, opt_state)
    assert last < first - 0.1
    np.testing.assert_array_equal(lora_model(*batch), before)


@pytest.mark.slow
def test_trainable_tree_survives_an_orbax_checkpoint(lora_model, batch, tmp_path):
    graphdef, trainable, frozen = split_trainable(lora_model, Trainable.lora())
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), trainable)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", trainable)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(trainable)
    np.testing.assert_array_equal(nnx.merge(graphdef, restored, frozen)(*batch), lora_model(*batch))


def names_of(model, trainable):
    return set(leaf_names(split_trainable(model, trainable).trainable))


HEAD = {"classifier.bias", "classifier.kernel"}


def test_biases(model):
    every = set(leaf_names(nnx.to_pure_dict(nnx.state(model))))
    biases = {name for name in every if name.endswith("bias")}
    assert names_of(model, Trainable.bias()) == biases | HEAD
    assert "transformer.layers.0.mlp_norm.bias" in biases


def test_the_head_alone(model):
    assert names_of(model, Trainable.head()) == HEAD


def test_last_layers(model):
    names = names_of(model, Trainable.last_layers(1))
    every = set(leaf_names(nnx.to_pure_dict(nnx.state(model))))
    last = {name for name in every if name.startswith(("transformer.layers.1.", "pooler"))}
    assert names == last | HEAD
    assert names_of(model, Trainable.last_layers(2)) > names


def test_matching_trains_what_matches_and_nothing_else(model):
    names = names_of(model, Trainable.matching(r"transformer\.layers\.\d\.mlp_norm\.scale"))
    assert names == {f"transformer.layers.{layer}.mlp_norm.scale" for layer in (0, 1)}


def test_modules_to_save_are_trained_with_the_adapters(model):
    config = LoraConfig(
        rank=2, alpha=2, target_modules=("query",), modules_to_save=("embeddings.LayerNorm",)
    )
    add_lora(model, config, key=jax.random.key(1))
    norm = {"transformer.embedding_norm.scale", "transformer.embedding_norm.bias"}
    adapters = {
        f"transformer.layers.{layer}.self_attn.q_proj.lora_{part}"
        for layer in (0, 1)
        for part in "ab"
    }
    assert names_of(model, Trainable.lora()) == norm | adapters | HEAD


def test_heads_of_language_models():
    untied = random_model("llama", "causal_lm")
    assert names_of(untied, Trainable.head()) == {"lm_head.kernel"}
    with pytest.raises(ValueError, match="head is tied to the token embedding"):
        split_trainable(random_model("gpt2", "causal_lm"), Trainable.head())


@pytest.mark.parametrize("scan_layers", [False, True])
def test_mask_says_which_parameters_are_split_off(scan_layers):
    model = random_model("qwen3", "sequence_classification", scan_layers=scan_layers)
    config = LoraConfig(rank=2, alpha=2, target_modules=("q_proj",), modules_to_save=("norm",))
    add_lora(model, config, key=jax.random.key(1))
    graphdef, trained, frozen = split_trainable(model, Trainable.lora())
    mask = Trainable.lora().mask(model)
    whole = nnx.to_pure_dict(nnx.state(nnx.merge(graphdef, trained, frozen)))
    assert jax.tree.structure(mask) == jax.tree.structure(whole)
    flags = zip(leaf_names(mask), jax.tree.leaves(mask), strict=True)
    assert {name for name, flag in flags if flag} == set(leaf_names(trained))
    assert "transformer.norm.scale" in leaf_names(trained)


def test_trained_parameters_are_float32_whatever_the_others_are(folder):
    loading = Loading(param_dtype="bfloat16")
    model = load_classifier(
        folder, label_names=("a", "b", "c"), key=jax.random.key(0), loading=loading
    )
    add_lora(model, LoraConfig(rank=2, alpha=2, target_modules="all-linear"), key=jax.random.key(1))
    _, trained, frozen = split_trainable(model, Trainable.lora())
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}


def test_share_in_words(lora_model):
    split = split_trainable(lora_model, Trainable.lora())
    total = count_parameters(split.trainable) + count_parameters(split.frozen)
    share = f"{100 * 459 / total:.3g}"
    assert split.describe_share() == f"459 of {total:,} parameters trained ({share} %)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trainable("lore"), r"one of full, lora, .*, got 'lore'. Did you mean 'lora'"),
        (lambda: Trainable.last_layers(0), "whole number from 1.*got 0 with 'last_layers'"),
        (lambda: Trainable("full", num_layers=1), "got 1 with 'full'"),
        (lambda: Trainable("matching"), "needs one; got None"),
        (lambda: Trainable.matching("("), r"'\(' is not a regular expression"),
    ],
)
def test_impossible_choices(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (Trainable.lora(), "call add_lora first"),
        (Trainable.last_layers(3), "last 3 layers are to be trained, but the model has 2"),
        (
            Trainable.matching("classifier.kernl"),
            "'classifier.kernl' as a whole.*Did you mean 'classifier.kernel'",
        ),
    ],
)
def test_choices_that_do_not_fit_the_model(model, trainable, message):
    with pytest.raises(ValueError, match=message):
        split_trainable(model, trainable)


@pytest.mark.parametrize(
    "trainable", [Trainable.full(), Trainable.bias(), Trainable.head(), Trainable.last_layers(1)]
)
def test_adapters_are_not_left_out_silently(lora_model, trainable):
    with pytest.raises(ValueError, match="or call merge_lora first"):
        split_trainable(lora_model, trainable)


def test_nothing_to_train_in_decoders():
    with pytest.raises(ValueError, match="this qwen3 model has no biases"):
        split_trainable(random_model("qwen3", "sequence_classification"), Trainable.bias())
    stacked = random_model("qwen3", "causal_lm", scan_layers=True)
    with pytest.raises(ValueError, match="scan_layers=False"):
        split_trainable(stacked, Trainable.last_layers(1))
