"""A loss split into what nothing trained enters, and the rest, comes to what it came to whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.privatize import clipped_grad, split_frozen_part
from dpjax.privatize.structured.program.jaxpr import REMATERIALISED

WIDTH, LENGTH = 6, 5


def weights(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape) / shape[0] ** 0.5


def block(layer, hidden, mask):
    """Attention and two products, as in a transformer."""
    query, key, value = (hidden @ layer[name] for name in "qkv")
    scores = jnp.where(mask[None, :], query @ key.T, -1e9)
    hidden = hidden + jax.nn.softmax(scores) @ value
    return hidden + jax.nn.gelu(hidden @ layer["up"]) @ layer["down"]


def make_layer(seed):
    names = ("q", "k", "v", "up", "down")
    return {name: weights(10 * seed + i, WIDTH, WIDTH) for i, name in enumerate(names)}


def embed(frozen, example):
    return frozen["table"][example["ids"]]


def of_head(params, example, frozen):
    hidden = embed(frozen, example)
    for layer in frozen["layers"]:
        hidden = block(layer, hidden, example["ids"] > 0)
    pooled = jnp.mean(hidden, axis=0)
    return jax.nn.log_softmax(pooled @ params["head"])[example["label"]]


def of_last_layer(params, example, frozen):
    hidden, mask = embed(frozen, example), example["ids"] > 0
    for layer in [*frozen["layers"], params["layer"]]:
        hidden = block(layer, hidden, mask)
    return jnp.sum(jnp.where(mask[:, None], hidden, 0.0)) * params["head"][0, 0]


def of_looped(params, example, frozen):
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *frozen["layers"])
    mask = example["ids"] > 0
    hidden, _ = jax.lax.scan(
        lambda hidden, layer: (block(layer, hidden, mask), None), embed(frozen, example), stacked
    )
    return jnp.sum(hidden @ params["head"])


def of_rematerialised(params, example, frozen):
    hidden, mask = embed(frozen, example), example["ids"] > 0
    for layer in [*frozen["layers"], params["layer"]]:
        hidden = jax.checkpoint(block)(layer, hidden, mask)
    return jnp.sum(hidden * mask[:, None])


def of_upper_adapter(params, example, frozen):
    """An adapter beside the query of the second layer."""
    mask = example["ids"] > 0
    hidden = block(frozen["layers"][0], embed(frozen, example), mask)
    layer = dict(frozen["layers"][1])
    layer["q"] = layer["q"] + params["head"] @ params["head"].T
    return jnp.sum(block(layer, hidden, mask) * mask[:, None])


FROZEN = {"table": weights(99, 20, WIDTH), "layers": [make_layer(1), make_layer(2)]}
PARAMS = {"head": weights(3, WIDTH, 4), "layer": make_layer(4)}
EXAMPLE = {"ids": jnp.array([3, 7, 7, 1, 0]), "label": jnp.int32(2)}
# The loss, the shapes of its features, and which of ids and label it still reads.
LOSSES = {
    "head": (of_head, [(WIDTH,)], (False, True)),
    "last layer": (of_last_layer, [(LENGTH, WIDTH)], (True, False)),
    "looped": (of_looped, [(LENGTH, WIDTH)], (False, False)),
    "rematerialised": (of_rematerialised, [(LENGTH, WIDTH)], (True, False)),
    "upper adapter": (of_upper_adapter, [(LENGTH, WIDTH)], (True, False)),
}


def without_unread(part, example):
    leaves, tree = jax.tree.flatten(example)
    kept = [leaf if read else None for leaf, read in zip(leaves, part.reads, strict=True)]
    return jax.tree.unflatten(tree, kept)


@pytest.mark.parametrize("name", LOSSES)
def test_the_parts_come_to_the_whole(name):
    loss, shapes, reads = LOSSES[name]
    part = split_frozen_part(loss, PARAMS, EXAMPLE, FROZEN)
    assert [feature.shape for feature in part.features] == shapes
    assert part.reads == reads
    assert 0.3 < part.share < 1
    features = part.compute(EXAMPLE, FROZEN)
    example = without_unread(part, EXAMPLE)

    def rest(params):
        return part.finish(params, features, example, FROZEN)

    def whole(params):
        return loss(params, EXAMPLE, FROZEN)

    expected, found = (jax.value_and_grad(each)(PARAMS) for each in (whole, rest))
    jax.tree.map(
        lambda e, f: np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-6), *[expected, found]
    )


@pytest.mark.parametrize("strategy", ["materialize", "one_backward", "two_backwards"])
def test_clipped_sums_are_those_of_the_whole(strategy):
    part = split_frozen_part(of_last_layer, PARAMS, EXAMPLE, FROZEN)
    ids = jax.random.randint(jax.random.key(0), (6, LENGTH), 1, 20)
    batch, mask = {"ids": ids, "label": jnp.zeros(6, jnp.int32)}, jnp.arange(6) < 5
    features = jax.vmap(lambda example: part.compute(example, FROZEN))(batch)

    def whole(params, example):
        return of_last_layer(params, example, FROZEN)

    def rest(params, example):
        return part.finish(params, example[0], example[1], FROZEN)

    kept = {"ids": ids, "label": None}
    expected = clipped_grad(whole, clip_norm=0.1, strategy=strategy)(PARAMS, batch, mask)
    found = clipped_grad(rest, clip_norm=0.1, strategy=strategy)(PARAMS, (features, kept), mask)
    jax.tree.map(
        lambda e, f: np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-6),
        expected.grads,
        found.grads,
    )
    # A feature of another record is noticed.
    stale = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), features)
    other = clipped_grad(rest, clip_norm=0.1, strategy=strategy)(PARAMS, (stale, kept), mask)
    assert float(jnp.abs(other.grads["head"] - expected.grads["head"]).max()) > 1e-3


def test_rematerialisation_stays():
    part = split_frozen_part(of_rematerialised, PARAMS, EXAMPLE, FROZEN)
    features = part.compute(EXAMPLE, FROZEN)
    example = without_unread(part, EXAMPLE)
    traced = jax.make_jaxpr(lambda params: part.finish(params, features, example, FROZEN))(PARAMS)
    assert sum(eqn.primitive.name in REMATERIALISED for eqn in traced.eqns) == 1


def of_everything(params, example, frozen):
    mask = example["ids"] > 0
    hidden = embed(frozen, example) + params["head"][:, 0]
    return jnp.sum(block(frozen["layers"][0], hidden, mask))


def of_lowest_adapter(params, example, frozen):
    mask, layer = example["ids"] > 0, dict(frozen["layers"][0])
    layer["q"] = layer["q"] + params["head"] @ params["head"].T
    return jnp.sum(block(layer, embed(frozen, example), mask))


def of_loop_with_adapters(params, example, frozen):
    mask = example["ids"] > 0
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *frozen["layers"])

    def body(hidden, layer):
        return block(layer | {"q": layer["q"] + params["layer"]["q"]}, hidden, mask), None

    return jnp.sum(jax.lax.scan(body, embed(frozen, example), stacked)[0])


@pytest.mark.parametrize("loss", [of_everything, of_lowest_adapter, of_loop_with_adapters])
def test_what_is_cheap_or_trained_below_is_no_feature(loss):
    """Masks, embeddings, and frozen projections beside an adapter are computed again."""
    part = split_frozen_part(loss, PARAMS, EXAMPLE, FROZEN)
    assert part.features == ()
    example = without_unread(part, EXAMPLE)
    found = part.finish(PARAMS, (), example, FROZEN)
    np.testing.assert_allclose(found, loss(PARAMS, EXAMPLE, FROZEN), rtol=1e-5)


def test_a_long_way_from_one_feature_to_another_is_not_computed_again():
    def loss(params, example, frozen):
        mask = example["ids"] > 0
        lower = block(frozen["layers"][0], embed(frozen, example), mask)
        upper = block(frozen["layers"][1], lower, mask)
        return jnp.sum((lower + upper) @ params["head"]) + jnp.sum(lower @ params["layer"]["q"])

    part = split_frozen_part(loss, PARAMS, EXAMPLE, FROZEN)
    assert len(part.features) == 2
    features = part.compute(EXAMPLE, FROZEN)
    found = part.finish(PARAMS, features, without_unread(part, EXAMPLE), FROZEN)
    np.testing.assert_allclose(found, loss(PARAMS, EXAMPLE, FROZEN), rtol=1e-5)


def test_a_loss_without_anything_trained_is_a_feature_itself():
    part = split_frozen_part(
        lambda _, example, frozen: of_head(PARAMS, example, frozen), {}, EXAMPLE, FROZEN
    )
    assert [feature.shape for feature in part.features] == [()]
    (feature,) = part.compute(EXAMPLE, FROZEN)
    np.testing.assert_allclose(
        part.finish({}, (feature,), without_unread(part, EXAMPLE), FROZEN), feature
    )
