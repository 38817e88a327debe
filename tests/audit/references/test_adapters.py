"""Shadow adapters of a transformer, on token ids and on hidden states computed once."""

from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from dpjax.audit import ShadowTraining, score_shadows, train_shadows
from dpjax.models import (
    LoraConfig,
    Trainable,
    add_lora,
    cut_lower_layers,
    lower_hidden_states,
    split_trainable,
)
from dpjax.privatize import RunKey
from tests.support.tiny_checkpoints import ragged_batch, random_model


class Batch(NamedTuple):
    inputs: jax.Array
    mask: jax.Array
    labels: jax.Array


def logits_of(graphdef):
    def logits(trainable, record, frozen):
        return nnx.merge(graphdef, trainable, frozen)(record.inputs, record.mask)

    return logits


def train_and_score(model, records):
    logits = logits_of(model.graphdef)

    def loss(trainable, record, frozen):
        z = logits(trainable, record, frozen)
        return optax.softmax_cross_entropy_with_integer_labels(z, record.labels)

    membership = np.array([[True, True, False, True], [False, True, True, True]])
    training = ShadowTraining(num_steps=2, expected_batch_size=2)
    options = {"run_key": RunKey.from_seed(0), "mapping": "map"}
    shadows = train_shadows(loss, model, optax.sgd(0.3), records, membership, training, **options)
    return score_shadows(logits, shadows.trainable, model.frozen, records, mapping="map")


@pytest.mark.slow
def test_hidden_states_computed_once_give_the_same_shadows():
    model = random_model("bert", "sequence_classification")
    lora = LoraConfig(rank=2, target_modules=("query",), layers_to_transform=(1,))
    add_lora(model, lora, key=jax.random.key(0))
    split = split_trainable(model, Trainable.lora())
    ids, mask = ragged_batch()
    records = Batch(ids, mask, np.array([0, 1, 2, 0], np.int32))
    whole = train_and_score(split, records)
    hidden = lower_hidden_states(split, ids, mask, 1)
    upper = train_and_score(cut_lower_layers(split, 1), records._replace(inputs=hidden))
    np.testing.assert_allclose(upper, whole, atol=1e-4)
    assert whole.shape == (2, 4, 3)
    assert np.abs(whole[0] - whole[1]).max() > 0.01
