"""Decoding against a reference: equal to a loop that asks both models for every token."""

import jax
import numpy as np
import pytest
from flax import nnx

from dpjax.models import LoraConfig, LoraLinear, add_lora, base_model, generate
from tests.support.tiny_checkpoints import VOCABULARY, random_model, run

NEW = 6
PROMPTS = np.random.default_rng(1).integers(3, VOCABULARY, (4, 5)).astype(np.int32)
MASK = np.arange(5) >= np.array([0, 2, 0, 4])[:, None]
SETTINGS = {"max_new_tokens": NEW, "eos_token_ids": (), "pad_token_id": 0}


@pytest.fixture(scope="module")
def models():
    """A tuned model that differs much from its base, and the base."""
    tuned = random_model("llama", "causal_lm")
    add_lora(tuned, LoraConfig(rank=4), key=jax.random.key(0))
    for module in _adapters(tuned):
        noise = jax.random.normal(jax.random.key(3), module.lora_b[...].shape)
        module.lora_b[...] = 0.4 * noise
    return tuned, base_model(tuned)


def _adapters(model):
    return [module for _, module in nnx.iter_graph(model) if isinstance(module, LoraLinear)]


def written(model, **options):
    return np.asarray(generate(model, PROMPTS, MASK, **SETTINGS | options).tokens)


def by_hand(tuned, base, suspicion):
    """Greedy decoding, one whole forward pass of each model for every token."""
    ids, mask, replaced = PROMPTS, MASK, 0
    for _ in range(NEW):
        of_both = [np.asarray(run(model, ids, mask))[:, -1] for model in (tuned, base)]
        log_probs = [np.asarray(jax.nn.log_softmax(logits)) for logits in of_both]
        tokens, instead = (logits.argmax(axis=-1) for logits in of_both)
        rows = np.arange(len(tokens))
        ratio = np.exp(log_probs[0][rows, tokens] - log_probs[1][rows, tokens])
        replaced += int((ratio >= suspicion).sum())
        tokens = np.where(ratio >= suspicion, instead, tokens)
        ids = np.concatenate([ids, tokens[:, None].astype(np.int32)], axis=1)
        mask = np.concatenate([mask, np.ones((len(mask), 1), bool)], axis=1)
    return ids[:, PROMPTS.shape[1] :], replaced


def test_suspicious_tokens_are_those_of_the_reference(models):
    tuned, base = models
    expected, replaced = by_hand(tuned, base, 1.5)
    assert 0 < replaced < expected.size
    np.testing.assert_array_equal(written(tuned, reference=base, suspicion=1.5), expected)


def test_the_ends_are_both_models(models):
    tuned, base = models
    assert (written(tuned) != written(base)).any()
    np.testing.assert_array_equal(written(tuned, reference=base, suspicion=1e30), written(tuned))
    np.testing.assert_array_equal(written(tuned, reference=base, suspicion=1e-30), written(base))
    np.testing.assert_array_equal(written(tuned, reference=tuned, suspicion=1.1), written(tuned))


@pytest.mark.parametrize("keys", [jax.random.key(7), jax.random.split(jax.random.key(7), 4)])
def test_the_reference_draws_with_keys_of_its_own(models, keys):
    tuned, _ = models
    drawn = {"key": keys, "temperature": 3.0}
    same = written(tuned, **drawn, reference=tuned, suspicion=1.1)
    np.testing.assert_array_equal(same, written(tuned, **drawn))
    assert (written(tuned, **drawn, reference=tuned, suspicion=1e-3) != same).any()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: random_model("gpt2", "causal_lm", vocab_size=9), ValueError, "61 tokens .* got 9"),
        (lambda: random_model("bert", "masked_lm"), TypeError, "MaskedLM has no causal head"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(models, make, error, words):
    with pytest.raises(error, match=words):
        written(models[0], reference=make())


def test_suspicion_is_positive(models):
    with pytest.raises(ValueError, match="suspicion must be positive and finite, got 0"):
        written(models[0], reference=models[1], suspicion=0)
