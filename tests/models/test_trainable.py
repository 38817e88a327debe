import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from dpjax.models import add_lora, count_parameters, split_trainable


def leaf_names(tree):
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


@pytest.fixture
def lora_model(model):
    add_lora(model, rank=2, alpha=2, target_modules=("query", "value"), key=jax.random.key(1))
    return model


def test_lora_trains_adapters_and_head(lora_model):
    _, trainable, frozen = split_trainable(lora_model, "lora")
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
    add_lora(model, rank=2, alpha=2, target_modules=targets, key=key, freeze_a=True)
    _, trainable, frozen = split_trainable(model, "lora")
    assert count_parameters(trainable) == 24 * 3 + 3 + 4 * (2 * 24)
    assert not any("lora_a" in name for name in leaf_names(trainable))
    assert sum("lora_a" in name for name in leaf_names(frozen)) == 4


def test_full_tuning_trains_everything(model):
    graphdef, trainable, frozen = split_trainable(model, "full")
    assert frozen == {}
    assert count_parameters(trainable) == count_parameters(nnx.state(model))
    assert {"transformer.embed_tokens.embedding", "pooler.kernel"} <= set(leaf_names(trainable))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(trainable))
    nnx.merge(graphdef, trainable, frozen)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_per_example_gradients_of_the_merged_model_equal_a_loop(shallow_model, batch, tuning):
    if tuning == "lora":
        targets = ("query", "output.dense")
        add_lora(shallow_model, rank=2, alpha=2, target_modules=targets, key=jax.random.key(1))
    graphdef, trainable, frozen = split_trainable(shallow_model, tuning)
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
    graphdef, trainable, frozen = split_trainable(lora_model, "lora")
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


def test_trainable_tree_survives_an_orbax_checkpoint(lora_model, batch, tmp_path):
    graphdef, trainable, frozen = split_trainable(lora_model, "lora")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), trainable)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", trainable)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(trainable)
    np.testing.assert_array_equal(nnx.merge(graphdef, restored, frozen)(*batch), lora_model(*batch))


def test_bad_tuning(model):
    with pytest.raises(ValueError, match=r"one of full, lora, got 'lore'. Did you mean 'lora'"):
        split_trainable(model, "lore")
    with pytest.raises(ValueError, match="call add_lora first"):
        split_trainable(model, "lora")
    add_lora(model, rank=2, alpha=2, target_modules=("key",), key=jax.random.key(1))
    with pytest.raises(ValueError, match="or call merge_lora first"):
        split_trainable(model, "full")
