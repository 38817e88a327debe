"""Canaries that are pairs of answers."""

import json

import numpy as np
import pytest

from dpjax.audit import encode_canaries
from dpjax.audit.canaries.checks import find_repeated_canaries, find_secret_problems
from dpjax.audit.canaries.makers.base import Canaries
from dpjax.audit.canaries.makers.pairs import make_random_pairs, make_swapped_pairs
from dpjax.data import Preferences
from dpjax.privatize import RunKey
from tests.support.tiny_tokenizers import make_tokenizer

KEY = RunKey.from_seed(1)
HELD_OUT = Preferences(
    [f"the film {number}" for number in range(20)],
    [f" good {number}" for number in range(20)],
    [f" bad {number}" for number in range(20)],
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_random_pairs_pass_the_checks(tokenizer):
    canaries = make_random_pairs(10, run_key=KEY, tokenizer=tokenizer, num_tokens=16)
    assert canaries.records.chosen == list(canaries.secrets)
    encoded = encode_canaries(canaries, tokenizer, 64, separator="\n")
    assert find_secret_problems(canaries, encoded, tokenizer) == ()
    assert find_repeated_canaries(canaries, encoded) == ()
    again = make_random_pairs(10, run_key=KEY, tokenizer=tokenizer, num_tokens=16)
    assert again.to_dict() == canaries.to_dict()
    other = make_random_pairs(10, run_key=RunKey.from_seed(2), tokenizer=tokenizer)
    assert not set(other.secrets) & set(canaries.secrets)


def test_swapped_pairs_are_held_out_ones_the_other_way_round(tokenizer):
    canaries = make_swapped_pairs(8, run_key=KEY, held_out=HELD_OUT)
    assert len(set(canaries.source_rows)) == 8
    for place, row in enumerate(canaries.source_rows):
        assert canaries.records.prompts[place] == HELD_OUT.prompts[row]
        assert canaries.records.chosen[place] == HELD_OUT.rejected[row] == canaries.secrets[place]
        assert canaries.records.rejected[place] == HELD_OUT.chosen[row]
    encoded = encode_canaries(canaries, tokenizer, 64)
    assert find_secret_problems(canaries, encoded, tokenizer) == ()


def test_they_come_back_from_their_file():
    canaries = make_swapped_pairs(3, run_key=KEY, held_out=HELD_OUT)
    read = Canaries.from_dict(json.loads(json.dumps(canaries.to_dict())))
    assert read.records == canaries.records and read.secrets == canaries.secrets


def test_a_pair_is_drawn_once():
    twice = HELD_OUT.take(np.repeat(np.arange(4), 2))
    canaries = make_swapped_pairs(4, run_key=KEY, held_out=twice)
    assert len(set(canaries.records.prompts)) == 4
    with pytest.raises(ValueError, match="as many different pairs, got 4"):
        make_swapped_pairs(5, run_key=KEY, held_out=twice)


def test_answers_that_came_out_the_same_are_refused(tokenizer, monkeypatch):
    from dpjax.audit.canaries.makers import pairs

    monkeypatch.setattr(pairs, "random_text", lambda *_: "same")
    with pytest.raises(ValueError, match="are the same 8 random tokens"):
        make_random_pairs(2, run_key=KEY, tokenizer=tokenizer, num_tokens=16)
