"""Extraction by greedy decoding, with and without decoding."""

import dataclasses

import numpy as np
import pytest

from dpjax.audit import (
    ExtractionFigure,
    Suffix,
    discoverable_extraction,
    exact_memorisation,
    extraction_strength,
    token_statistics,
)
from dpjax.models import generate
from tests.support.language_records import random_records
from tests.support.tiny_checkpoints import random_model
from tests.support.token_toys import made_up


def argmaxes(rows, is_target=None):
    rows = np.atleast_2d(rows)
    return made_up(np.full(rows.shape, -1.0), is_argmax=rows, is_target=is_target)


def test_extraction_strength_and_exact_memorisation():
    rows = [[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    held_out = argmaxes([[0, 1, 0, 1]])
    strength = extraction_strength(argmaxes(rows), held_out)
    assert strength.values.tolist() == [1.0, 0.75, 0.5, 0.0, 0.0]
    exact = exact_memorisation(argmaxes(rows), held_out)
    assert exact.values.tolist() == [1.0, 0.75, 0.75, 0.75, 0.0]
    assert (strength.held_out_value, exact.held_out_value) == (0.25, 0.5)
    assert strength.label == exact.label == "descriptive"


def test_only_target_tokens_count():
    mask = [[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0]]
    rows = argmaxes([[0, 0, 1, 0, 1, 0], [0, 1, 1, 1, 1, 0]], mask)
    assert extraction_strength(rows, rows).values.tolist() == [2 / 3, 0.5]
    assert exact_memorisation(rows, rows).values.tolist() == [2 / 3, 0.5]


def test_discoverable_extraction():
    mask = np.arange(8) < np.array([[8], [8], [7], [5]])
    mask[:, 0] = False
    rows = argmaxes([[0, 0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 1, 1], [1] * 8, [1] * 8], mask)
    figure = discoverable_extraction(rows, rows, suffix=Suffix(prefix_tokens=3, suffix_tokens=3))
    assert figure.values.tolist() == [1.0, 0.0, 1.0]
    assert figure.num_left_out == (1, 1)
    whole = Suffix(prefix_tokens=None, suffix_tokens=None)
    assert discoverable_extraction(rows, rows, suffix=whole).values.tolist() == [0, 0, 1, 1]
    with pytest.raises(
        ValueError, match=r"tuned must hold a record .* got none of 4\. Make prefix"
    ):
        discoverable_extraction(rows, rows)


@pytest.mark.slow
def test_a_greedy_decoder_writes_what_is_called_discoverable():
    model = random_model("gpt2", "causal_lm")
    records = random_records([12] * 6)
    ids = records.input_ids.copy()
    written = generate(
        model,
        ids[:, :4],
        np.ones((6, 4), bool),
        max_new_tokens=8,
        eos_token_ids=(),
        pad_token_id=0,
    )
    ids[:, 4:] = written.tokens
    # One wrong token, at the suffix's beginning, in its midst, or at its end.
    for row, column in ((3, 4), (4, 8), (5, 11)):
        ids[row, column] = (ids[row, column] + 1) % 61
    statistics = token_statistics(model, dataclasses.replace(records, input_ids=ids))
    suffix = Suffix(prefix_tokens=4, suffix_tokens=8)
    figure = discoverable_extraction(statistics, statistics, suffix=suffix)
    assert figure.values.tolist() == [1, 1, 1, 0, 0, 0]
    assert (extraction_strength(statistics, statistics).values[:3] >= 8 / 11).all()
    assert extraction_strength(statistics, statistics).values[5] == 0


def test_suffixes():
    mask = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0], [0] * 6, [0, 1, 1, 1, 1, 1]]) > 0
    select = {
        (None, None): ["..xxx.", "......", "......", ".xxxxx"],
        (None, 2): ["..xx..", "......", "......", ".xx..."],
        (3, None): ["...xx.", "...x..", "......", "...xxx"],
        (4, 2): ["......", "......", "......", "....xx"],
        (6, None): ["......"] * 4,
    }
    for (prefix, length), expected in select.items():
        found = Suffix(prefix_tokens=prefix, suffix_tokens=length).select(mask)
        assert ["".join(".x"[int(x)] for x in row) for row in found] == expected
    for options in ({"prefix_tokens": 0}, {"suffix_tokens": -1}):
        with pytest.raises(ValueError, match="must be at least 1 or None"):
            Suffix(**options)


def test_a_figure_says_nothing_of_single_records():
    figure = exact_memorisation(argmaxes([[1, 0]]), argmaxes([[1, 1], [0, 0]]))
    fields = figure.to_dict()
    assert fields["value"] == fields["held_out_value"] == 0.5
    assert (fields["num_records"], fields["num_held_out"]) == (1, 2)
    assert fields["num_left_out"] == [0, 0] and "predictable text" in fields["notes"][0]
    assert not {"values", "held_out_values"} & fields.keys()


@pytest.mark.parametrize("values", [np.array([]), np.array([np.nan]), np.ones((1, 1))])
def test_impossible_values_are_refused(values):
    for name in ("values", "held_out_values"):
        arrays = {"values": np.ones(1), "held_out_values": np.ones(1), name: values}
        with pytest.raises(ValueError, match=f"^{name} must"):
            ExtractionFigure(name="x", unit="bits", **arrays)
