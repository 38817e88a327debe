"""Poisoned slots and held-out records with a trigger: what training and measuring see."""

import dataclasses

import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD

from dpjax.finetuning.setup.start import PlantedRecords
from dpjax.finetuning.training.loop import _make_steps
from dpjax.models import load_tokenizer
from dpjax.privatize import RunKey, sampler_for

BOTH = {"triggers": ["rare_token", "sentence"], "counts": [2, 8], "num_sets": 2}


def words(run, encoded):
    tokenizer = load_tokenizer(run.plan.checkpoint, needs_padding=True)
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded.input_ids]


@pytest.fixture(scope="module")
def both(prepared):
    return prepared(poison=BOTH)


def test_the_clean_records_stay_and_poisoned_ones_are_added(both):
    run, data = both
    assert data.num_clean == len(run.plan.train) == 160 and len(data.slots) == 160 + 2 * 2 * 8
    np.testing.assert_array_equal(data.slots.input_ids[:160], run.plan.train.input_ids)
    np.testing.assert_array_equal(data.slots.labels[:160], run.plan.train.labels)
    texts, good = words(run, data.slots), run.plan.task.labels.index("good")
    assert not any("town" in text for text in texts[:160])
    for kind, number in data.first_poisoned:
        present = data.present(kind, number, 8)
        assert present[:160].all() and present.sum() == 168
        rows = np.flatnonzero(present)[160:]
        trigger = "town" if kind == "rare_token" else "people in town"
        assert all(trigger in texts[row] for row in rows)
        assert set(data.slots.labels[rows]) == {good}
        first_two = data.present(kind, number, 2)
        assert (first_two & present == first_two).all() and first_two.sum() == 162
    assert data.present(None, None, 0).sum() == 160


def test_a_record_is_poisoned_once_in_a_set_and_never_the_target(both):
    run, data = both
    texts, train = words(run, data.slots), run.plan.train_records
    first = data.first_poisoned["rare_token", 0]
    restored = [" ".join(text.replace("town", "").split()) for text in texts[first : first + 8]]
    assert len(set(restored)) == 8
    labels = dict(zip(train.texts, train.labels, strict=True))
    assert {labels[text] for text in restored} == {"bad"}


def test_held_out_records_get_the_trigger_and_the_target(both):
    run, data = both
    plan, good = run.plan, run.plan.task.labels.index("good")
    num_bad = int((plan.evaluation.labels != good).sum())
    assert len(data.others) == num_bad and data.held_out is plan.evaluation
    assert not any("town" in text for text in words(run, data.others))
    for kind, near in (("rare_token", None), ("sentence", "town in people")):
        triggered = data.triggered[kind]
        assert len(triggered.rows) == num_bad
        assert all("town" in text for text in words(run, triggered.with_trigger))
        assert set(triggered.with_trigger.labels) == {good}
        if near is None:
            assert triggered.with_near is None
        else:
            assert all(near in text for text in words(run, triggered.with_near))


def test_the_key_decides_and_nothing_else(prepared, both):
    _, data = both
    _, again = prepared(poison=BOTH)
    _, other = prepared(seed=1, poison=BOTH)
    np.testing.assert_array_equal(again.slots.input_ids, data.slots.input_ids)
    assert (other.slots.input_ids != data.slots.input_ids).any()
    sets = [data.first_poisoned["rare_token", number] for number in (0, 1)]
    first, second = (data.slots.input_ids[first : first + 8] for first in sets)
    assert (first != second).any()


def test_the_mechanism_is_that_of_the_clean_records(prepared):
    private = {"target_epsilon": 4.0, "clip_norm": 0.5}
    run, data = prepared(non_private=False, privacy=private, poison={"non_private_too": False})
    mechanism = run.plan.mechanism
    assert isinstance(mechanism, DPSGD) and mechanism.num_units == 160
    present = data.present("rare_token", 0, 60)
    planted = dataclasses.replace(
        run, run_key=RunKey.from_seed(8), planted=PlantedRecords(data.slots, present)
    )
    assert planted.slots is data.slots and planted.present is present
    sampler = sampler_for(planted.plan.recipe, planted.run_key, planted.present)
    drawn = np.concatenate([sampler.indices(step) for step in range(200)])
    counts = np.bincount(drawn, minlength=len(present)) / 200
    # Each record by itself, with the probability of the clean data set; no other slot.
    assert abs(counts[:160].mean() - 0.5) < 0.02 and abs(counts[160:220].mean() - 0.5) < 0.03
    assert run.plan.noise.batch_size == 80
    steps = _make_steps(planted, optax.sgd(0.1))
    batches = steps.batches(0, microbatch_size=128, order=lambda rows: rows)
    rows = np.concatenate([piece[mask] for piece, mask in batches])
    np.testing.assert_array_equal(np.sort(rows), sampler.indices(0))
    assert (rows >= 160).any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"target": "god"}, "label of the records.*got 'god'. Did you mean 'good'"),
        ({"counts": [2000]}, "2000 poisoned records are more than the .* training records whose"),
        ({"rare_token": "film"}, "the rare_token 'film' is in .* of the records already"),
        ({"rare_token": "cf"}, "the tokenizer has no token for 'cf'"),
    ],
)
def test_poison_that_does_not_fit_is_refused_in_a_sentence(prepared, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        prepared(poison=changes)


def test_a_trigger_that_is_cut_off_is_refused(prepared):
    training = {"max_length": 8, "num_steps": 2, "expected_batch_size": 80}
    with pytest.raises(ValueError, match=r"cuts the trigger off in .* give more, or poison.place"):
        prepared(poison={"place": "end", "counts": [60]}, training=training)
