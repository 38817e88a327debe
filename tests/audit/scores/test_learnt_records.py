"""Every score of texts finds what a model has really learnt."""

import jax
import numpy as np
import optax
import pytest

from dpjax.audit import (
    SCORES,
    Neighbours,
    auc,
    collect_evidence,
    compute_scores,
    exact_memorisation,
    exposure_by_sampling,
)
from dpjax.models import LoraConfig, SplitModel, Trainable, add_lora, base_model, split_trainable
from tests.support.language_records import random_records
from tests.support.tiny_checkpoints import random_model

NUM_MEMBERS = 24
RECORDS = random_records([12] * 3 * NUM_MEMBERS)
MEMBERS, OTHERS = np.arange(NUM_MEMBERS), np.arange(NUM_MEMBERS, 3 * NUM_MEMBERS)
TEXTS = [" ".join(map(str, row)) for row in RECORDS.input_ids]


def learn(split: SplitModel, records, num_steps):
    optimizer = optax.adam(0.02)

    def loss(trainable):
        logits = split.replace(trainable=trainable).merge()(
            records.input_ids, records.attention_mask
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits[:, :-1], records.input_ids[:, 1:]
        )
        return losses.mean()

    @jax.jit
    def step(trainable, state):
        updates, state = optimizer.update(jax.grad(loss)(trainable), state)
        return optax.apply_updates(trainable, updates), state

    trainable, state = split.trainable, optimizer.init(split.trainable)
    for _ in range(num_steps):
        trainable, state = step(trainable, state)
    return split.replace(trainable=trainable).merge()


@pytest.mark.slow
def test_members_score_higher_than_others():
    model = random_model("gpt2", "causal_lm")
    add_lora(model, LoraConfig(rank=4), key=jax.random.key(0))
    tuned = learn(split_trainable(model, Trainable.lora()), RECORDS.take(MEMBERS), 60)
    names = [name for name, score in SCORES.items() if "tuned" in score.needs]
    # Random tokens have no capital letters.
    names.remove("lowercase")
    evidence = collect_evidence(
        names,
        RECORDS,
        tuned=tuned,
        base=base_model(tuned),
        texts=TEXTS,
        neighbours=Neighbours(number=4),
    )
    for name, scores in compute_scores(names, evidence).items():
        assert auc(scores[MEMBERS], scores[OTHERS]) > 0.95, name
    figure = exact_memorisation(evidence.tuned.take(MEMBERS), evidence.tuned.take(OTHERS))
    assert figure.value > 0.3 > 0.1 > figure.held_out_value
    losses = -compute_scores(["loss"], evidence)["loss"]
    members, control, references = losses[MEMBERS], losses[OTHERS[:12]], losses[OTHERS[12:]]
    exposure = exposure_by_sampling(members, control, references)
    assert exposure.value > 10 > 3 > exposure.held_out_value
