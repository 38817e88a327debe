"""Log-probabilities of given texts against the full forward pass."""

import jax
import numpy as np
import pytest

from dpjax.models import continuation_log_probs, generate
from tests.support.tiny_checkpoints import VOCABULARY, random_model, run

LENGTH = 12


def texts():
    """Ids, mask and what is asked: padded on the right, not at all, on the left; (3, 12) each."""
    ids = np.random.default_rng(2).integers(0, VOCABULARY, (3, LENGTH)).astype(np.int32)
    mask, asked = np.ones((3, LENGTH), bool), np.zeros((3, LENGTH), bool)
    mask[0, 8:] = mask[2, :4] = False
    asked[0, 3:8] = asked[1, 1:] = asked[2, 5::2] = True
    return ids, mask, asked


@pytest.mark.parametrize(("family", "vocab_chunk"), [("gpt2", None), ("gpt2", 8192), ("gemma2", 7)])
def test_they_equal_those_of_the_full_forward_pass(family, vocab_chunk):
    # A tied head, and one of its own whose logits are capped.
    model = random_model(family, "causal_lm")
    ids, mask, asked = texts()
    found = continuation_log_probs(model, ids, mask, asked, vocab_chunk=vocab_chunk)
    assert found.shape == (3, LENGTH)
    assert found.dtype == np.float32
    before = jax.nn.log_softmax(run(model, ids, mask))[:, :-1]
    expected = np.take_along_axis(np.asarray(before), ids[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(found[:, 1:], np.where(asked[:, 1:], expected, 0), atol=1e-4)
    assert not np.asarray(found)[~asked].any()


def test_they_are_those_that_generation_reports():
    model = random_model("llama", "causal_lm")
    ids, mask = np.int32([[0, 0, 5, 6], [7, 8, 9, 10]]), np.bool_([[0, 0, 1, 1], [1, 1, 1, 1]])
    written = generate(
        model,
        ids,
        mask,
        max_new_tokens=6,
        key=jax.random.key(0),
        temperature=2.0,
        eos_token_ids=(),
        pad_token_id=0,
    )
    whole = np.concatenate([ids, written.tokens], axis=1)
    everything = np.pad(mask, ((0, 0), (0, 6)), constant_values=True)
    asked = np.zeros_like(everything)
    asked[:, 4:] = True
    found = continuation_log_probs(model, whole, everything, asked)
    np.testing.assert_allclose(found[:, 4:], written.log_probs, atol=1e-4)


def test_logits_of_bfloat16_models_are_not_rounded_to_it():
    for family in ("gpt2", "llama"):
        model = random_model(family, "causal_lm", dtype="bfloat16")
        logits = np.asarray(run(model, *texts()[:2]))
        assert logits.dtype == np.float32
        assert (logits != logits.astype(jax.numpy.bfloat16)).mean() > 0.9


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((1, 0), "row 1, column 0, which has no token before it; 1 such places"),
        ((2, 4), "row 2, column 4, which has no token before it"),
        ((0, 9), "row 0, column 9, which is padding"),
        ((2, 1), "row 2, column 1, which is padding"),
    ],
)
def test_what_cannot_be_known_is_refused(place, message):
    ids, mask, asked = texts()
    asked[place] = True
    with pytest.raises(ValueError, match=message):
        continuation_log_probs(random_model("gpt2", "causal_lm"), ids, mask, asked)


def test_impossible_arguments_are_refused(model):
    ids, mask, asked = texts()
    gpt2 = random_model("gpt2", "causal_lm")
    with pytest.raises(TypeError, match="a SequenceClassifier has no causal head"):
        continuation_log_probs(model, ids, mask, asked)
    with pytest.raises(TypeError, match="continuation_mask must be bool, got int64"):
        continuation_log_probs(gpt2, ids, mask, np.int64(asked))
    with pytest.raises(ValueError, match=r"continuation_mask .* \(3, 12\), got \(3, 11\)"):
        continuation_log_probs(gpt2, ids, mask, asked[:, 1:])
    long = np.ones((1, 41), np.int32)
    with pytest.raises(ValueError, match="41 tokens is longer than the 40 positions"):
        continuation_log_probs(gpt2, long, long > 0, np.zeros((1, 41), bool))
