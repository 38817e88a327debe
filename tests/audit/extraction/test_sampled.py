"""(n, p)-discoverable extraction, against sampling."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from dpjax.audit import (
    Suffix,
    extraction_probability,
    sampled_extraction,
    samples_needed,
    suffix_log_probs,
)
from dpjax.models import generate
from tests.support.language_records import random_records
from tests.support.tiny_checkpoints import random_model, run

TWO = Suffix(prefix_tokens=4, suffix_tokens=2)
RECORDS = random_records([9, 5, 7])


def test_samples_needed():
    logs = np.log([0.001, 0.01, 0.3])
    expected = {0.1: [106, 11, 1], 0.5: [693, 69, 2], 0.9: [2302, 230, 7]}
    for probability, numbers in expected.items():
        assert samples_needed(logs, probability=probability).tolist() == numbers
    found = extraction_probability(logs[:2], num_samples=100)
    np.testing.assert_allclose(found, [0.095208, 0.633968], atol=5e-7)


def test_samples_needed_at_the_ends():
    # Two tosses of a coin show heads with probability 3/4, exactly.
    assert samples_needed(np.log(0.5), probability=0.75) == 2
    assert samples_needed([0.0, -np.inf, -5000.0], probability=0.5).tolist() == [1, np.inf, np.inf]
    np.testing.assert_allclose(
        samples_needed(-100.0, probability=0.5), np.log(2) * np.exp(100.0), rtol=1e-9
    )
    assert extraction_probability([0.0, -np.inf], num_samples=3).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(
        extraction_probability(-50.0, num_samples=1000), 1000 * np.exp(-50.0), rtol=1e-9
    )


@given(st.floats(-12, -0.01), st.floats(0.01, 0.99))
def test_no_smaller_number_of_samples_is_enough(log_prob, probability):
    needed = int(samples_needed(log_prob, probability=probability))
    assert extraction_probability(log_prob, num_samples=needed) >= probability - 1e-9
    if needed > 1:
        assert extraction_probability(log_prob, num_samples=needed - 1) < probability + 1e-9


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.7, 5), (2.0, 61), (1.5, 1)])
def test_log_probs_are_those_of_the_full_forward_pass(temperature, top_k):
    model = random_model("gpt2", "causal_lm")
    found = suffix_log_probs(model, RECORDS, suffix=TWO, temperature=temperature, top_k=top_k)
    scaled = np.asarray(run(model, RECORDS.input_ids, RECORDS.attention_mask)) / temperature
    if top_k is not None:
        least = np.sort(scaled, axis=-1)[..., -top_k, None]
        scaled = np.where(scaled >= least, scaled, -np.inf)
    log_probs = special.log_softmax(scaled.astype(np.float64), axis=-1)
    expected = [
        sum(log_probs[row, t - 1, RECORDS.input_ids[row, t]] for t in (4, 5)) for row in (0, 2)
    ]
    np.testing.assert_allclose(found[[0, 2]], expected, atol=1e-4)
    assert np.isnan(found[1])


@pytest.mark.slow
def test_sampling_finds_the_suffix_as_often_as_said():
    model = random_model("llama", "causal_lm")
    count, record = 4000, random_records([6])
    settings = {"temperature": 0.3, "top_k": 4}
    prompts = np.repeat(record.input_ids[:, :4], count, axis=0)
    written = generate(
        model,
        prompts,
        np.ones_like(prompts, bool),
        max_new_tokens=2,
        key=jax.random.key(0),
        eos_token_ids=(),
        pad_token_id=0,
        **settings,
    )
    pairs, times = np.unique(np.asarray(written.tokens), axis=0, return_counts=True)
    ids = np.repeat(record.input_ids, len(pairs), axis=0)
    ids[:, 4:] = pairs
    records = random_records([6] * len(pairs))
    records.input_ids[:] = ids
    said = np.exp(suffix_log_probs(model, records, suffix=TWO, **settings))
    # Four standard deviations.
    assert (np.abs(times / count - said) <= 4 * np.sqrt(said / count) + 1e-4).all()
    assert said.sum() > 0.9


def test_the_figure():
    logs = np.array([np.log(0.01), np.nan, -np.inf, 0.0])
    figure = sampled_extraction(logs, logs[:2], num_samples=69, probability=0.5)
    assert figure.values.tolist() == [1.0, 0.0, 1.0]
    assert (figure.held_out_value, figure.num_left_out) == (1.0, (1, 1))
    figure = sampled_extraction(logs, logs[:2], num_samples=68, probability=0.5)
    assert figure.values.tolist() == [0.0, 0.0, 1.0]


def test_impossible_arguments_are_refused():
    model = random_model("gpt2", "causal_lm")
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            suffix_log_probs(model, RECORDS, suffix=TWO, temperature=temperature)
    with pytest.raises(ValueError, match="top_k must be at least 1 or None for all, got 0"):
        suffix_log_probs(model, RECORDS, suffix=TWO, top_k=0)
    with pytest.raises(ValueError, match="records must hold a record that has all tokens"):
        suffix_log_probs(model, RECORDS)
    for probability in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="probability must be between 0 and 1"):
            samples_needed([-1.0], probability=probability)
    for function in (
        lambda values: samples_needed(values, probability=0.5),
        lambda values: extraction_probability(values, num_samples=2),
        lambda values: sampled_extraction(values, [-1.0], num_samples=2, probability=0.5),
    ):
        with pytest.raises(ValueError, match="log_probs must be at most 0"):
            function([-1.0, 0.1])
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        extraction_probability([-1.0], num_samples=0)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        sampled_extraction([-1.0], [-1.0], num_samples=0, probability=0.5)
    with pytest.raises(ValueError, match="held_out must hold the log-probability of at least 1"):
        sampled_extraction([-1.0], [np.nan], num_samples=1, probability=0.5)
