"""Measures of logits, in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpjax.models import measure_tokens
from dpjax.models.text import token_logits
from tests.support.tiny_checkpoints import ragged_batch, random_model, run


def keep(logits, tokens):
    return logits, {"tokens": tokens}


@pytest.mark.slow
@pytest.mark.parametrize("logits_at_once", [2**24, 61 * 5])
def test_every_token_meets_the_logits_that_predict_it(monkeypatch, logits_at_once):
    # 5 tokens at a time do not divide the 52 that are predicted.
    monkeypatch.setattr(token_logits, "_LOGITS_AT_ONCE", logits_at_once)
    jax.clear_caches()
    model = random_model("gemma2", "causal_lm")
    ids, mask = ragged_batch()
    logits, rest = measure_tokens(model, ids, mask, keep)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(rest["tokens"][:, 1:], ids[:, 1:])
    expected = np.asarray(run(model, ids, mask))[:, :-1]
    seen = np.asarray(mask)[:, 1:]
    np.testing.assert_allclose(np.asarray(logits)[:, 1:][seen], expected[seen], atol=1e-4)
    assert not np.asarray(logits)[:, 0].any() and not np.asarray(rest["tokens"])[:, 0].any()


def test_a_single_token_is_predicted_by_nothing():
    model = random_model("gpt2", "causal_lm")
    logits, _ = measure_tokens(model, np.ones((2, 1), np.int32), np.ones((2, 1), bool), keep)
    assert logits.shape == (2, 1, 61)
    assert not np.asarray(logits).any()


def test_impossible_arguments_are_refused(model):
    ids, mask = np.ones((1, 4), np.int32), np.ones((1, 4), bool)
    with pytest.raises(TypeError, match="a SequenceClassifier has no causal head"):
        measure_tokens(model, ids, mask, keep)
    with pytest.raises(ValueError, match="input_ids contain 61, the model knows the ids 0 to 60"):
        measure_tokens(random_model("gpt2", "causal_lm"), 61 * ids, mask, keep)


def test_not_all_logits_are_in_memory_at_once(monkeypatch, full_optimisation):
    monkeypatch.setattr(token_logits, "_LOGITS_AT_ONCE", 2**18)
    model = random_model("gpt2", "causal_lm", vocab_size=20_000)
    ids, mask = np.ones((8, 40), np.int32), np.ones((8, 40), bool)
    graphdef, state = nnx.split(model)
    program = token_logits._measure.lower(graphdef, state, ids, mask, ids, measure=most_probable)
    # All logits are 25 MB; the head is 2.5 MB.
    assert program.compile().memory_analysis().temp_size_in_bytes < 8e6


def most_probable(logits, tokens):
    return jnp.argmax(jax.nn.log_softmax(logits), axis=-1), tokens
