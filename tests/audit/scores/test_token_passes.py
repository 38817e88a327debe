"""Forward passes over records against the full forward pass, and against transformers."""

import dataclasses

import numpy as np
import pytest

from dpjax.audit import mean_log_probs, probable_tokens, statistics_from_logits, token_statistics
from dpjax.models import load_causal_lm
from dpjax.models.text import token_logits
from tests.support.language_records import random_records
from tests.support.tiny_checkpoints import random_model, raw_config, run

FIELDS = ("log_probs", "vocab_mean", "vocab_variance", "is_argmax")
RECORDS = random_records([30, 4, 17, 9, 30, 2, 12], columns=34)


def exact(model, records):
    """Statistics in float64 from all logits."""
    logits = np.asarray(run(model, records.input_ids, records.attention_mask), np.float64)
    before = np.pad(logits[:, :-1], [(0, 0), (1, 0), (0, 0)])
    return statistics_from_logits(before, records.input_ids, records.loss_mask)


def assert_equal(found, expected):
    np.testing.assert_array_equal(found.is_target, expected.is_target)
    targets = found.is_target
    for name in FIELDS:
        left, right = getattr(found, name)[targets], getattr(expected, name)[targets]
        np.testing.assert_allclose(left, right, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@pytest.mark.slow
def test_they_equal_those_of_the_full_forward_pass(family):
    model = random_model(family, "causal_lm")
    found = token_statistics(model, RECORDS, batch_size=3)
    assert found.log_probs.dtype == np.float32
    assert_equal(found, exact(model, RECORDS))
    means = mean_log_probs(model, RECORDS, batch_size=4)
    expected = [found.log_probs[i][found.is_target[i]].mean() for i in range(len(RECORDS))]
    np.testing.assert_allclose(means, expected, atol=1e-5)


def test_prompts_do_not_count():
    model = random_model("gpt2", "causal_lm")
    late_mask = RECORDS.loss_mask & (np.arange(34) >= 5)
    later = dataclasses.replace(RECORDS, loss_mask=late_mask)
    whole, part = token_statistics(model, RECORDS), token_statistics(model, later)
    np.testing.assert_array_equal(part.is_target, late_mask)
    np.testing.assert_allclose(part.log_probs[late_mask], whole.log_probs[late_mask], atol=1e-5)


def test_statistics_are_in_float32_whatever_the_model_computes_in():
    model = random_model("llama", "causal_lm", dtype="bfloat16")
    found = token_statistics(model, RECORDS)
    assert found.log_probs.dtype == np.float32
    assert_equal(found, exact(model, RECORDS))


def test_the_most_probable_tokens():
    model = random_model("gpt2", "causal_lm")
    found = probable_tokens(model, RECORDS, number=3, batch_size=3)
    logits = np.asarray(run(model, RECORDS.input_ids, RECORDS.attention_mask))
    expected = np.argsort(-logits, axis=-1, kind="stable")[:, :-1, :3]
    targets = RECORDS.loss_mask[:, 1:]
    assert found.shape == (7, 34, 3) and found.dtype == np.int32
    np.testing.assert_array_equal(found[:, 1:][targets], expected[targets])
    for number in (0, 62):
        with pytest.raises(ValueError, match="number must be from 1 to 61"):
            probable_tokens(model, RECORDS, number=number)


def test_impossible_arguments_are_refused():
    model = random_model("gpt2", "causal_lm")
    with pytest.raises(ValueError, match="records must hold at least 1 record, got 0"):
        token_statistics(model, RECORDS.take(np.arange(0)))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        token_statistics(model, RECORDS, batch_size=0)
    with pytest.raises(TypeError, match="has no causal head"):
        token_statistics(random_model("bert", "sequence_classification"), RECORDS)
    for row, column in ((3, 0), (1, 4)):
        mask = RECORDS.loss_mask.copy()
        mask[row, column] = True
        with pytest.raises(ValueError, match=f"at record {row}, column {column}; 1 such places"):
            token_statistics(model, dataclasses.replace(RECORDS, loss_mask=mask))
    without = dataclasses.replace(RECORDS, loss_mask=np.zeros((7, 34), bool))
    with pytest.raises(ValueError, match="got 7 without"):
        mean_log_probs(model, without)


@pytest.mark.slow
def test_log_probs_are_those_of_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    raw = raw_config("llama")
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    torch.manual_seed(0)
    original = transformers.AutoModelForCausalLM.from_config(config).eval()
    original.save_pretrained(tmp_path)
    found = token_statistics(load_causal_lm(tmp_path), RECORDS, batch_size=3)
    for index, length in enumerate(RECORDS.attention_mask.sum(axis=1)):
        ids = torch.tensor(RECORDS.input_ids[index : index + 1, :length].astype(np.int64))
        with torch.no_grad():
            log_probs = torch.log_softmax(original(input_ids=ids).logits[0, :-1].double(), dim=-1)
        expected = log_probs.gather(1, ids[0, 1:, None])[:, 0].numpy()
        np.testing.assert_allclose(found.log_probs[index, 1:length], expected, atol=1e-4)


@pytest.mark.usefixtures("compilations_count")
def test_lengths_share_few_programs():
    model = random_model("gpt2", "causal_lm")
    token_statistics(model, random_records(range(2, 33)), batch_size=2)
    # Records of at most 16, 24 and 32 tokens.
    assert token_logits._measure._cache_size() == 3
