"""Losses of a model's parameters: equal to the formulas of what the model says, and no leak."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import GPT2Config

from dpjax.models import (
    CausalLM,
    LoraConfig,
    Trainable,
    add_lora,
    parse_config,
    split_trainable,
)
from dpjax.unlearning import Certified
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.losses import formulas
from dpjax.unlearning.losses.objective import (
    TokenRecord,
    make_loss,
    mean_loss,
    reference_log_probs,
)

METHODS = ("grad_ascent", "grad_diff", "npo", "simnpo", "undial", "rmu")
KEY = jax.random.key(3)
CERTIFIED = Certified(
    start_norm=1.0,
    gradient_norm=0.5,
    learning_rate=0.1,
    num_steps=20,
    target_epsilon=3.0,
    delta=1e-5,
)


def options(method, **changes):
    return UnlearnConfig(run="r", output_dir="o", forget_rows=(0,), method=method, **changes)


@pytest.fixture(scope="module")
def split():
    """A model whose adapters are not zero."""
    config = parse_config(
        GPT2Config(vocab_size=19, n_embd=8, n_layer=2, n_head=2, n_positions=8).to_dict()
    )
    model = CausalLM(config, rngs=nnx.Rngs(0))
    add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
    split = split_trainable(model, Trainable.lora())
    return split.replace(trainable=moved(split.trainable, 0.3, 1))


def moved(tree, size, seed):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noise = [size * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [a + b for a, b in zip(leaves, noise, strict=True)])


def record(ids, first, length=None):
    length = len(ids) if length is None else length
    ids = jnp.array(ids)
    place = jnp.arange(len(ids))
    return TokenRecord(ids, place < length, (place >= first) & (place < length))


FORGET, RETAIN = record([3, 5, 7, 2, 0], 2, 4), record([4, 4, 9, 11, 1], 1)


def log_prob(model, of):
    """Sum over the counted tokens, in NumPy."""
    logits = np.asarray(model(of.input_ids[None], of.attention_mask[None])[0], np.float64)
    each = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    counted = np.flatnonzero(of.loss_mask)
    return sum(each[t - 1, of.input_ids[t]] for t in counted), len(counted)


def known(split, of):
    """The record with what the model before unlearning says of it."""
    batch = jax.tree.map(lambda leaf: leaf[None], of)
    return of._replace(reference_log_prob=reference_log_probs(split, batch, batch_size=1)[0])


@pytest.mark.parametrize("method", ("grad_ascent", "grad_diff", "npo", "simnpo"))
def test_loss_is_the_formula_of_log_probs(split, method):
    now = split.replace(trainable=moved(split.trainable, 0.3, 2))
    (forget, count), (retain, others) = (log_prob(now.merge(), r) for r in (FORGET, RETAIN))
    before, _ = log_prob(split.merge(), FORGET)
    loss, kept = -forget / count, -retain / others
    expected = {
        "grad_ascent": -loss,
        "grad_diff": -loss + kept,
        "npo": 20 * np.log(1 + np.exp(0.1 * (forget - before))) + kept,
        "simnpo": 0.8 * np.log(1 + np.exp(-2.5 * loss)) + kept,
    }[method]
    value = make_loss(split.graphdef, options(method), key=KEY)(
        now.trainable, split.trainable, split.frozen, known(split, FORGET), RETAIN
    )
    assert float(value) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_reference_gets_no_gradient_and_padding_no_part(split, method):
    loss = make_loss(split.graphdef, options(method), key=KEY)
    now = moved(split.trainable, 0.3, 2)
    forget = known(split, FORGET)
    of_start = jax.grad(loss, argnums=1)(now, split.trainable, split.frozen, forget, RETAIN)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(of_start))
    other = known(split, FORGET._replace(input_ids=FORGET.input_ids.at[4].set(17)))
    values = [loss(now, split.trainable, split.frozen, f, RETAIN) for f in (forget, other)]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-5)


def test_npo_with_a_reference_computed_once_equals_one_computed_in_the_loss(split):
    def naive(trainable):
        model = nnx.merge(split.graphdef, trainable, split.frozen)
        now, before, kept = (
            -mean_loss(of, record) * jnp.sum(record.loss_mask)
            for of, record in ((model, FORGET), (split.merge(), FORGET), (model, RETAIN))
        )
        retain = -kept / jnp.sum(RETAIN.loss_mask)
        return formulas.npo(now, before, retain, beta=0.1, retain_weight=1.0)

    loss = make_loss(split.graphdef, options("npo"), key=KEY)
    forget = known(split, FORGET)

    def once(trainable):
        return loss(trainable, split.trainable, split.frozen, forget, RETAIN)

    for at in (split.trainable, moved(split.trainable, 0.3, 2)):
        assert float(once(at)) == pytest.approx(float(naive(at)), rel=1e-5)
        slopes = (jax.tree.leaves(jax.grad(each)(at)) for each in (once, naive))
        for one, other in zip(*slopes, strict=True):
            assert np.allclose(one, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="call reference_log_probs first"):
        loss(split.trainable, split.trainable, split.frozen, FORGET, RETAIN)


def test_rmu_changes_no_layer_above_the_one_it_compares(split):
    loss = make_loss(split.graphdef, options("rmu", layer=1), key=KEY)
    gradient = jax.grad(loss)(split.trainable, split.trainable, split.frozen, FORGET, RETAIN)
    layers = gradient["transformer"]["layers"]
    assert any(np.any(leaf) for leaf in jax.tree.leaves(layers[0]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(layers[1]))


def test_options_of_another_method_are_refused():
    with pytest.raises(ValueError, match="beta is for method=npo or simnpo, got method=rmu"):
        options("rmu", beta=0.1)
    with pytest.raises(ValueError, match="Did you mean 'simnpo'"):
        options("simpno")
    with pytest.raises(ValueError, match="one of forget, forget_rows and forget_owners, got none"):
        dataclasses.replace(options("npo"), forget_rows=())
    with pytest.raises(ValueError, match=r"needs certified\.start_norm, .*\.target_epsilon"):
        options("noisy_descent")
    with pytest.raises(ValueError, match="are for method=noisy_descent, got method=npo"):
        options("npo", certified=CERTIFIED)
    with pytest.raises(ValueError, match="num_epochs counts passes over the forget set"):
        options("noisy_descent", certified=CERTIFIED, num_epochs=3.0)
    assert options("undial").method_options() == {"strength": 10.0, "retain_weight": 0.0}
