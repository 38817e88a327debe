"""Greedy decoding at each place of given texts: what generation writes, with a reference too."""

import jax
import numpy as np
import pytest
from flax import nnx

from dpjax.audit import greedy_tokens
from dpjax.data import LanguageDataset
from dpjax.models import LoraConfig, LoraLinear, add_lora, base_model, generate
from tests.support.tiny_checkpoints import VOCABULARY, random_model

LENGTHS, NEW = (3, 6, 4, 9), 5
RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def models():
    """A tuned model that differs much from its base, and the base."""
    tuned = random_model("llama", "causal_lm")
    add_lora(tuned, LoraConfig(rank=4), key=jax.random.key(0))
    for _, module in nnx.iter_graph(tuned):
        if isinstance(module, LoraLinear):
            noise = jax.random.normal(jax.random.key(3), module.lora_b[...].shape)
            module.lora_b[...] = 0.4 * noise
    return tuned, base_model(tuned)


def continued(model, **options):
    """Prompts of several lengths with what the model writes after them, as records."""
    prompts = [RNG.integers(3, VOCABULARY, length) for length in LENGTHS]
    width = max(LENGTHS)
    ids = np.zeros((len(prompts), width), np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = True
    settings = {"max_new_tokens": NEW, "eos_token_ids": (), "pad_token_id": 0}
    new = np.asarray(generate(model, ids, mask, **settings, **options).tokens)
    whole = np.zeros((len(prompts), width + NEW), np.int32)
    is_token, is_target = np.zeros(whole.shape, bool), np.zeros(whole.shape, bool)
    for row, prompt in enumerate(prompts):
        end = len(prompt) + NEW
        whole[row, :end] = [*prompt, *new[row]]
        is_token[row, :end] = True
        is_target[row, len(prompt) : end] = True
    return LanguageDataset(
        whole, is_token, truncated=np.zeros(len(whole), bool), loss_mask=is_target
    )


@pytest.mark.parametrize("suspicion", [None, 1.5, 4.0])
def test_what_is_found_is_what_generation_writes(models, suspicion):
    tuned, base = models
    options = {} if suspicion is None else {"reference": base, "suspicion": suspicion}
    records = continued(tuned, **options)
    found = greedy_tokens(tuned, records, batch_size=3, **options)
    np.testing.assert_array_equal(found[records.loss_mask], records.input_ids[records.loss_mask])
    # Of the other kind of decoding it is not what is found.
    others = {"reference": base, "suspicion": 1.5} if suspicion is None else {}
    other = greedy_tokens(tuned, records, **others)
    assert np.any(other[records.loss_mask] != records.input_ids[records.loss_mask])


def test_one_of_reference_and_suspicion_is_not_enough(models):
    tuned, base = models
    records = continued(tuned)
    for options in ({"reference": base}, {"suspicion": 3.0}):
        with pytest.raises(ValueError, match="give both reference and suspicion"):
            greedy_tokens(tuned, records, **options)
