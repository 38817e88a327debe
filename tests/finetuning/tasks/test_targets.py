"""Logits of the tokens that count alone: what is lost is work."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.flatten_util import ravel_pytree
from rich.console import Console

import dpjax
from dpjax.finetuning.tasks import causal_lm
from dpjax.finetuning.tasks.language import Targets
from dpjax.finetuning.training import loop
from tests.support.owned_records import flat_sum, make_run

QUIET = Console(quiet=True)
TALE = "the sky is blue. the snow is white. "


@given(arrays(np.bool_, (3, 6)), st.integers(3, 8))
def test_picked_are_the_tokens_that_count(mask, most):
    mask[:, 0] = False
    mask &= np.cumsum(mask, axis=1) <= most
    ids = np.arange(18, dtype=np.int32).reshape(3, 6) + 1
    targets = Targets.pick(ids, mask, most)
    for row in range(3):
        counts = targets.counts[row]
        np.testing.assert_array_equal(targets.ids[row][counts], ids[row][mask[row]])
        np.testing.assert_array_equal(targets.places[row][counts], np.flatnonzero(mask[row]) - 1)
        assert not targets.places[row][~counts].any() and not targets.ids[row][~counts].any()
    assert targets.places.shape == (3, most)


@pytest.fixture
def options(language_options, tmp_path):
    """Short answers to long prompts."""
    made = language_options("prompt_completion")
    for name in ("train_data", "eval_data"):
        rows = [json.loads(line) for line in made[name].read_text().splitlines()]
        made[name] = tmp_path / f"long_{name}.jsonl"
        made[name].write_text(
            "\n".join(json.dumps(row | {"prompt": TALE + row["prompt"]}) for row in rows)
        )
    made["training"] |= {"max_length": 40}
    return made


def all_positions(run):
    """The same run, with logits at every position."""
    task = dataclasses.replace(run.plan.task, max_targets=None)
    return dataclasses.replace(run, plan=dataclasses.replace(run.plan, task=task))


def sums(run, steps=(0, 1)):
    training = loop._make_steps(run, optax.sgd(0.1))
    return np.concatenate([flat_sum(run, training, step)[0] for step in steps])


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("strategy", ["materialize", "one_backward", "two_backwards"])
def test_clipped_gradients_equal_those_of_all_logits(options, strategy):
    run = make_run(options)
    task, model = run.plan.task, run.model
    assert task.max_targets == run.plan.train.loss_mask.sum(axis=1).max() < 10
    records = run.plan.train.take(np.arange(5))

    def clipped(task):
        loss = task.loss_fn(model.graphdef)
        of_batch = dpjax.clipped_grad(
            lambda trainable, record: loss(trainable, record, model.frozen),
            clip_norm=0.5,
            strategy=strategy,
        )
        return ravel_pytree(jax.jit(of_batch)(model.trainable, task.batch(records)).grads)[0]

    assert_close(clipped(task), clipped(dataclasses.replace(task, max_targets=None)))


def test_features_are_those_of_the_run_with_all_logits(options):
    lora = {"rank": 2, "layers_to_transform": (1,)}
    options |= {"tuning": "lora", "lora": lora}
    cached, plain = (
        make_run(options | {"compute": {"cache_frozen": w}}) for w in ("auto", "never")
    )
    assert cached.plan.features is not None and plain.plan.features is None
    assert_close(sums(loop.with_features(cached, cached.model, QUIET)), sums(all_positions(plain)))


def test_a_record_with_more_targets_is_read_at_all_positions(options):
    task = make_run(options).plan.task
    ids = np.ones((2, 40), np.int32)
    few, many = (np.arange(40) >= 40 - number for number in (2, 30))
    data = dpjax.data.LanguageDataset(ids, ids > 0, np.zeros(2, bool), np.stack([few, many]))
    assert task.batch(data).targets is None
    assert task.batch(data.take([0])).targets is not None


def test_texts_and_canaries_leave_nothing_out(language_options, options):
    assert make_run(language_options("text")).plan.task.max_targets is None
    audit = {"num_canaries": 20, "most_share": 0.99}
    assert make_run(options | {"audit": audit}).plan.task.max_targets is None


@pytest.mark.slow
def test_a_whole_run_equals_one_with_all_logits(options, monkeypatch, tmp_path):
    options["training"]["num_steps"] = 4
    picked = dpjax.finetune(**options)
    monkeypatch.setattr(causal_lm, "_PICKED_SHARE", 0.0)
    plain = dpjax.finetune(**options | {"output_dir": tmp_path / "plain"})
    assert picked.eval_perplexity == pytest.approx(plain.eval_perplexity, rel=1e-4)
    for one, other in zip(picked.metrics, plain.metrics, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert [s.written for s in picked.samples] == [s.written for s in plain.samples]
