"""Adapters on embeddings and heads, and rows of tokens: what they compute, and exact clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax.models import (
    LoraConfig,
    Trainable,
    add_lora,
    causal_lm_loss,
    fresh_lora,
    merged_copy,
    split_trainable,
)
from dpjax.privatize import clipped_grad
from tests.support.tiny_checkpoints import random_model

CLIP_NORM = 0.5
CASES = [
    ("gpt2", {"target_modules": ("wte", "c_attn")}),
    ("llama", {"target_modules": ("lm_head", "embed_tokens")}),
    ("gpt2", {"target_modules": ("c_fc",), "trainable_token_indices": (9, 4)}),
]


def adapt(family, **options):
    model = random_model(family, "causal_lm")
    add_lora(model, LoraConfig(**{"rank": 3, "alpha": 6.0} | options), key=jax.random.key(1))
    return model


def moved(split):
    """The model with other values of all that is trained."""

    def move(path, leaf):
        key = jax.random.key(len(jax.tree_util.keystr(path)))
        return leaf + 0.2 * jax.random.normal(key, leaf.shape)

    return split.replace(trainable=jax.tree_util.tree_map_with_path(move, split.trainable))


def texts():
    ids = jax.random.randint(jax.random.key(3), (3, 8), 3, 12)
    return ids, jnp.ones((3, 8), bool).at[2, 5:].set(False)


def loss_of(split, vocab_chunk):
    def loss(trained, example):
        ids, mask = example
        model = split.replace(trainable=trained).merge()
        hidden = model.hidden_states(ids, mask)[:-1]
        weights, vocab_axis = model.head_weights()
        return causal_lm_loss(
            hidden,
            weights,
            ids[1:],
            mask[1:],
            vocab_axis=vocab_axis,
            reduction="sum",
            vocab_chunk=vocab_chunk,
            logit_softcap=model.config.logit_softcap,
            addition=model.head_addition(hidden),
        )

    return loss


@pytest.mark.slow
@pytest.mark.parametrize(("family", "options"), CASES)
def test_merged_tables_compute_the_same(family, options):
    fresh = split_trainable(adapt(family, **options), Trainable.lora())
    plain, ids = random_model(family, "causal_lm"), texts()[0]
    mask = jnp.ones(ids.shape, bool)
    np.testing.assert_allclose(fresh.merge()(ids, mask), plain(ids, mask), atol=1e-5)
    model = moved(fresh).merge()
    logits = model(ids, mask)
    assert np.abs(logits - plain(ids, mask)).max() > 0.1
    np.testing.assert_allclose(merged_copy(model)(ids, mask), logits, atol=2e-5)
    rows = jnp.array([4, 30, 9])
    hidden = model.hidden_states(ids, mask)
    np.testing.assert_allclose(model.word_logits(hidden, rows), logits[..., rows], atol=1e-5)
    split = split_trainable(model, Trainable.lora())
    again = fresh_lora(split.trainable, split.frozen, key=jax.random.key(0))
    np.testing.assert_allclose(
        split.replace(trainable=again).merge()(ids, mask), plain(ids, mask), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_backward", "two_backwards"])
@pytest.mark.parametrize(("family", "options"), CASES)
def test_clipped_gradients_are_those_of_single_examples(family, options, strategy):
    split = moved(split_trainable(adapt(family, **options), Trainable.lora()))
    batch = texts()
    one = jax.jit(jax.vmap(jax.grad(loss_of(split, None)), (None, 0)))
    gradients = one(split.trainable, batch)
    norms = jax.vmap(optax.tree.norm)(gradients)
    factors = jnp.minimum(1.0, CLIP_NORM / norms)
    total = jax.tree.map(lambda leaf: jnp.tensordot(factors, leaf, 1), gradients)
    loss = loss_of(split, 16 if strategy == "two_backwards" else None)
    clip = clipped_grad(loss, clip_norm=CLIP_NORM, strategy=strategy)
    clipped = jax.jit(clip)(split.trainable, batch)
    np.testing.assert_allclose(clipped.norms, norms, rtol=2e-5)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, clipped.grads, total))
    assert difference <= 2e-5 * optax.tree.norm(total)
    shares = jax.tree.map(lambda leaf: jnp.sum(leaf**2), gradients)
    assert all(share > 1e-9 for share in jax.tree.leaves(shares))


def test_only_the_named_rows_are_trained():
    split = split_trainable(adapt("gpt2", trainable_token_indices=(9, 4)), Trainable.lora())
    rows = split.trainable["transformer"]["embed_tokens"]
    table = split.frozen["transformer"]["embed_tokens"]["base"]["embedding"]
    assert list(rows) == ["token_rows"]
    np.testing.assert_array_equal(rows["token_rows"], table[jnp.array([9, 4])])


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("gpt2", {"trainable_token_indices": (61,)}, "has 61, but the model has 61 tokens"),
        ("gpt2", {"trainable_token_indices": (3, 3)}, "must be different numbers from 0"),
        (
            "gpt2",
            {"trainable_token_indices": (3,), "target_modules": ("wte",)},
            "target_modules or modules_to_save names too",
        ),
        (
            "gpt2",
            {"trainable_token_indices": (3,), "modules_to_save": ("wte",)},
            "target_modules or modules_to_save names too",
        ),
        ("gpt2", {"target_modules": ("lm_head",)}, "head is tied to transformer.wte: name that"),
        ("llama", {"target_modules": ("lm_head",), "use_dora": True}, "names lm_head"),
        ("gpt2", {"target_modules": ("wte",), "freeze_a": True}, "names transformer.wte"),
    ],
)
def test_what_is_refused(family, options, message):
    with pytest.raises(ValueError, match=message):
        adapt(family, **options)


def test_an_addition_must_fit_the_vocabulary():
    hidden, head = jnp.zeros((3, 4)), jnp.zeros((8, 4))
    with pytest.raises(ValueError, match="a row for each of 8 tokens, got 7"):
        causal_lm_loss(
            hidden,
            head,
            jnp.zeros(3, jnp.int32),
            jnp.ones(3, bool),
            vocab_axis=0,
            addition=(jnp.zeros((3, 2)), jnp.zeros((7, 2))),
        )
