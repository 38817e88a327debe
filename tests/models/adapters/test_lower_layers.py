"""A model cut below what is trained computes and learns what the whole model does."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpjax.models import (
    LoraConfig,
    Trainable,
    add_lora,
    cut_lower_layers,
    fresh_lora,
    lower_hidden_states,
    lowest_trained_layer,
    split_trainable,
)
from tests.support.tiny_checkpoints import ragged_batch, random_model

CASES = [
    ("bert", "sequence_classification"),
    ("gemma3_text", "causal_lm"),
    ("smollm3", "causal_lm"),
]


def adapted(family="bert", task="sequence_classification", layers=(1,)):
    model = random_model(family, task)
    add_lora(model, LoraConfig(rank=2, layers_to_transform=layers), key=jax.random.key(0))
    split = split_trainable(model, Trainable.lora())
    # B moves: otherwise the adapters do nothing.
    leaves, tree = jax.tree.flatten(split.trainable)
    moved = [
        leaf + 0.1 * jax.random.normal(jax.random.key(number), leaf.shape)
        for number, leaf in enumerate(leaves)
    ]
    return split.replace(trainable=jax.tree.unflatten(tree, moved))


def value_and_gradient(model, inputs, mask):
    def loss(trainable):
        outputs = nnx.merge(model.graphdef, trainable, model.frozen)(inputs, mask)
        # What a model computes at padding means nothing.
        counted = jnp.where(mask[..., None], outputs, 0.0) if outputs.ndim == 3 else outputs
        return jnp.mean(jnp.sin(counted)), counted

    (_, outputs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.trainable)
    return outputs, gradient


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("family", "task"), CASES)
def test_cut_model_on_hidden_states_is_the_whole_model_on_ids(family, task):
    model = adapted(family, task)
    ids, mask = ragged_batch()
    assert lowest_trained_layer(model) == 1
    hidden = lower_hidden_states(model, ids, mask, 1, batch_size=3)
    assert hidden.shape == (*ids.shape, 32)
    whole, whole_gradient = value_and_gradient(model, ids, mask)
    cut, cut_gradient = value_and_gradient(cut_lower_layers(model, 1), jnp.asarray(hidden), mask)
    np.testing.assert_allclose(cut, whole, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cut_gradient, whole_gradient
    )
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole_gradient)) > 1e-4


def test_what_is_trained_lowest_decides():
    assert lowest_trained_layer(adapted(layers=(0, 1))) == 0
    assert lowest_trained_layer(adapted(layers=None)) == 0
    head = random_model("bert", "sequence_classification")
    assert lowest_trained_layer(split_trainable(head, Trainable.head())) == 1
    embedding = split_trainable(head, Trainable.matching(r".*embedding_norm\.scale"))
    assert lowest_trained_layer(embedding) == 0
    tied = random_model("gemma", "causal_lm")
    assert lowest_trained_layer(split_trainable(tied, Trainable.matching(".*embedding"))) == 0


@pytest.mark.parametrize(("layers", "layer"), [((0, 1), 1), ((1,), 2), ((1,), 0), ((1,), -1)])
def test_a_cut_through_what_is_trained_is_refused(layers, layer):
    model = adapted(layers=layers)
    message = re.escape(f"the lowest that is trained, got {layer}")
    with pytest.raises(ValueError, match=message):
        cut_lower_layers(model, layer)
    with pytest.raises(ValueError, match=message):
        lower_hidden_states(model, *ragged_batch(), layer)


def test_ids_are_refused_by_a_cut_model():
    cut = cut_lower_layers(adapted(), 1).merge()
    with pytest.raises(TypeError, match="cut below layer 1 reads hidden states, got int32"):
        cut(*ragged_batch())


@pytest.mark.slow
def test_fresh_adapters_change_nothing_yet_and_differ():
    model = adapted()
    plain = random_model("bert", "sequence_classification")
    ids, mask = ragged_batch()
    first, second = (
        fresh_lora(model.trainable, model.frozen, key=jax.random.key(seed)) for seed in (0, 1)
    )
    head = {"classifier": nnx.to_pure_dict(nnx.split(plain)[1])["classifier"]}
    outputs = model.replace(trainable=first | head).merge()(ids, mask)
    np.testing.assert_allclose(outputs, plain(ids, mask), atol=1e-5)
    layers = [tree["transformer"]["layers"][1] for tree in (first, second)]
    a, b = (layer["self_attn"]["q_proj"]["lora_a"] for layer in layers)
    assert not np.allclose(a, b)
    assert not np.allclose(a, layers[0]["self_attn"]["k_proj"]["lora_a"])
    assert float(jnp.abs(a).max()) <= 32**-0.5
    assert first["classifier"]["kernel"] is model.trainable["classifier"]["kernel"]
