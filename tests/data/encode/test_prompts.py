"""Prompts for generation are what stands before the answer in training, padded on the left."""

from __future__ import annotations

import numpy as np
import pytest

from dpjax.data import (
    Completions,
    Conversations,
    Texts,
    by_length,
    encode_language,
    encode_prompts,
    trim_padding,
)

USER = {"role": "user", "content": "the film"}
ASSISTANT = {"role": "assistant", "content": "is good"}
ASK = "<|turn|>user\nthe film<|end|>\n"
ANSWER = "<|turn|>assistant\nis good<|end|>\n"
INVITATION = "<|turn|>assistant\n"


def decoded(data, tokenizer):
    return [
        tokenizer.decode(ids[mask])
        for ids, mask in zip(data.input_ids, data.attention_mask, strict=True)
    ]


@pytest.mark.parametrize("opening", [None, "<s>"])
def test_prompts_stand_before_the_completion(opening, make_gpt):
    tokenizer = make_gpt(opening=opening)
    records = Completions(["the film is good ", "the fi", "a book"], ["x", "lm", " is long"])
    prompts = encode_prompts(records, tokenizer, 64, separator="\n")
    data = encode_language(records, tokenizer, 64, separator="\n")
    assert prompts.attention_mask[:, -1].all()
    assert (prompts.input_ids.dtype, prompts.attention_mask.dtype) == (np.int32, np.bool_)
    for row in range(3):
        ids = prompts.input_ids[row, prompts.attention_mask[row]]
        before = data.input_ids[row, : np.flatnonzero(data.loss_mask[row])[0]]
        np.testing.assert_array_equal(ids, before)
        # Padding is all on the left.
        assert (np.diff(prompts.attention_mask[row].astype(int)) >= 0).all()
    assert decoded(prompts, tokenizer)[1] == (opening or "") + "the fi\n"


def test_conversations(chat):
    conversations = [
        [USER, ASSISTANT],
        [USER, ASSISTANT, USER, ASSISTANT],
        [USER, ASSISTANT, USER],
        [USER],
    ]
    prompts = encode_prompts(Conversations(conversations), chat, 64)
    assert decoded(prompts, chat) == [
        ASK + INVITATION,
        ASK + ANSWER + ASK + INVITATION,
        ASK + INVITATION,
        ASK + INVITATION,
    ]
    assert not prompts.truncated.any()


def test_prompts_of_messages(chat):
    records = Completions([[USER, ASSISTANT, USER], "the film"], [[ASSISTANT], " is good"])
    assert decoded(encode_prompts(records, chat, 64), chat) == [
        ASK + ANSWER + ASK + INVITATION,
        "the film",
    ]


def test_long_prompts_keep_their_end(gpt):
    records = Completions(["the film " * 9 + "is a good book and a bad play", "a film"], ["x", "y"])
    prompts = encode_prompts(records, gpt, 8)
    ids = gpt(records.prompts[0])["input_ids"]
    assert len(ids) > 8
    np.testing.assert_array_equal(prompts.input_ids[0], ids[-8:])
    np.testing.assert_array_equal(prompts.truncated, [True, False])


def test_trimming_keeps_the_end(gpt):
    records = Completions(["the film is good " * 9, "a film", "the book"], ["x"] * 3)
    prompts = encode_prompts(records, gpt, 64)
    short = by_length(prompts, np.arange(3))[:2]
    np.testing.assert_array_equal(np.sort(short), [1, 2])
    piece = trim_padding(prompts.take(short))
    assert piece.input_ids.shape == (2, 16)
    assert decoded(piece, gpt) == [records.prompts[row] for row in short]


def test_refusals(gpt, chat):
    with pytest.raises(TypeError, match="Texts have no prompts; give Completions or Conversations"):
        encode_prompts(Texts(["a"]), gpt, 8)
    with pytest.raises(ValueError, match="has no chat template"):
        encode_prompts(Conversations([[USER]]), gpt, 8)
    with pytest.raises(ValueError, match="record 2 begins with the assistant's last message"):
        encode_prompts(Conversations([[USER], [ASSISTANT]]), chat, 64)
    with pytest.raises(ValueError, match=r"separator=' '.*the records are messages"):
        encode_prompts(Conversations([[USER]]), chat, 64, separator=" ")
    with pytest.raises(ValueError, match="max_length=7"):
        encode_prompts(Completions(["a"], ["b"]), gpt, 7)
