"""Both texts of a pair are encoded as a prompt with a completion is, and compared as one."""

from __future__ import annotations

import numpy as np
import pytest

from dpjax.data import (
    Completions,
    Preferences,
    by_length,
    count_shared_texts,
    encode_language,
    encode_preferences,
    trim_padding,
)

RECORDS = Preferences(
    ["the film is", "the book was", "a long book, "],
    [" good", " long but the film was short", "a bad play"],
    [" bad and the play is bad", " short", "a good film, a bad play"],
)


def assert_side(data, side, expected):
    names = ("input_ids", "attention_mask", "loss_mask")
    if side == "rejected":
        names = ("rejected_ids", "rejected_mask", "rejected_loss_mask")
    length = expected.input_ids.shape[1]
    mask = expected.attention_mask
    ids, is_token, counts = (getattr(data, name) for name in names)
    np.testing.assert_array_equal(ids[:, :length][mask], expected.input_ids[mask])
    np.testing.assert_array_equal(is_token[:, :length], mask)
    np.testing.assert_array_equal(counts[:, :length], expected.loss_mask)
    assert not is_token[:, length:].any() and not counts[:, length:].any()


@pytest.mark.parametrize("max_length", [64, 8])
def test_each_side_is_a_completion_of_the_prompt(gpt, max_length):
    data = encode_preferences(RECORDS, gpt, max_length)
    sides = {
        side: encode_language(Completions(RECORDS.prompts, getattr(RECORDS, side)), gpt, max_length)
        for side in ("chosen", "rejected")
    }
    for side, expected in sides.items():
        assert_side(data, side, expected)
    cut = [each.truncated for each in sides.values()]
    np.testing.assert_array_equal(data.truncated, cut[0] | cut[1])


def test_messages(chat):
    def said(role, content):
        return [{"role": role, "content": content}]

    asked = said("user", "the film")
    records = Preferences([asked], [said("assistant", "good")], [said("assistant", "bad")])
    data = encode_preferences(records, chat, 64)
    for side, word in (("chosen", "good"), ("rejected", "bad")):
        assert_side(
            data, side, encode_language(Completions([asked], [said("assistant", word)]), chat, 64)
        )


def test_the_longer_text_says_how_long_a_record_is(gpt):
    data = encode_preferences(RECORDS, gpt, 64)
    lengths = [
        np.maximum(data.attention_mask.sum(1), data.rejected_mask.sum(1)),
        data.attention_mask.sum() + data.rejected_mask.sum(),
    ]
    np.testing.assert_array_equal(data.lengths, lengths[0])
    assert data.num_tokens == lengths[1]
    ordered = by_length(data, np.arange(3))
    assert (np.diff(data.lengths[ordered]) >= 0).all()
    trimmed = trim_padding(data)
    assert trimmed.rejected_mask.sum() == data.rejected_mask.sum()
    assert trimmed.attention_mask.sum() == data.attention_mask.sum()
    assert trimmed.rejected_ids.shape == trimmed.input_ids.shape


def test_a_pair_the_other_way_round_is_another_record(gpt):
    swapped = Preferences(RECORDS.prompts, RECORDS.rejected, RECORDS.chosen)
    contents = [list(encode_preferences(r, gpt, 64).contents()) for r in (RECORDS, swapped)]
    assert len({*contents[0], *contents[1]}) == 6
    same_chosen = Preferences(["a"] * 3, ["good"] * 3, ["bad", "long", "bad"])
    assert count_shared_texts(encode_preferences(same_chosen, gpt, 64)) == 2


def test_what_is_cut_before_the_answers_differ_teaches_nothing(gpt):
    same = "the film is good and the play is bad "
    records = Preferences(["the film", "the"], [same + "good", "good"], [same + "bad", "bad"])
    data = encode_preferences(records, gpt, 8)
    assert data.without_targets.tolist() == [True, False] and data.truncated.tolist()[0]


@pytest.mark.parametrize("num", [1, 2])
def test_a_prompt_without_room_for_an_answer_is_refused(gpt, num):
    long = "the film is good and the play is bad " * 3
    records = Preferences([*([long] * num), "the"], ["good"] * (num + 1), ["bad"] * (num + 1))
    numbers = ", ".join(map(str, range(1, num + 1)))
    message = rf"{num} of {num + 1} records.*max_length=8 leaves no.*\(records {numbers}\)"
    with pytest.raises(ValueError, match=message) as said:
        encode_preferences(records, gpt, 8)
    assert "\n" not in str(said.value)


def test_a_tokenizer_without_a_template_refuses_messages(gpt):
    said = [{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}]
    records = Preferences([[{"role": "user", "content": "film"}]], [said[0]], [said[1]])
    with pytest.raises(ValueError, match="chat template"):
        encode_preferences(records, gpt, 64)
