"""A text that is written with the beginning-of-sequence token gets no second one."""

from __future__ import annotations

import numpy as np
import pytest

from dpjax.data import (
    Completions,
    Conversations,
    Records,
    Texts,
    encode_labelled,
    encode_language,
    encode_prompts,
)

TALK = [{"role": "user", "content": "the film"}, {"role": "assistant", "content": "is good"}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.fixture(params=["<s>", "<|endoftext|>"], ids=["own", "that of the end"])
def opens(request, make_gpt):
    """A tokenizer that opens every text, and its opening token."""
    options = {"bos_token": request.param, "chat_template": TEMPLATE}
    return make_gpt(opening=request.param, **options), request.param


def assert_equal(first, second):
    for name, array in first._arrays().items():
        np.testing.assert_array_equal(array, second._arrays()[name])


def test_texts(opens):
    tokenizer, token = opens
    written = encode_language(Texts([token + "the film", "the film"]), tokenizer, 64)
    plain = encode_language(Texts(["the film"] * 2), tokenizer, 64)
    assert_equal(written, plain)
    twice = encode_language(Texts([token * 2 + "the film"]), tokenizer, 64)
    assert (twice.input_ids == tokenizer.convert_tokens_to_ids(token)).sum() >= 2


def test_completions_and_prompts(opens):
    tokenizer, token = opens
    written = Completions([token + "the film", token + "the fi"], [" is", "lm"])
    plain = Completions(["the film", "the fi"], [" is", "lm"])
    for separator in ("", "\n"):
        options = {"max_length": 64, "separator": separator}
        assert_equal(
            encode_language(written, tokenizer, **options),
            encode_language(plain, tokenizer, **options),
        )
        prompts = encode_prompts(written, tokenizer, **options)
        assert_equal(prompts, encode_prompts(plain, tokenizer, **options))
        first = prompts.input_ids[0][prompts.attention_mask[0]]
        assert tokenizer.decode(first) == f"{token}the film{separator}"


def test_templates_write_it_themselves(opens):
    tokenizer, token = opens
    for records in (Conversations([TALK]), Completions([TALK[:1]], [TALK[1:]])):
        data = encode_language(records, tokenizer, 64)
        prompts = encode_prompts(records, tokenizer, 64)
        assert tokenizer.decode(data.input_ids[0]) == f"{token}the filmis good<|endoftext|>"
        assert tokenizer.decode(prompts.input_ids[0]) == f"{token}the film"
    # A file of conversations that a template has already written.
    text = tokenizer.apply_chat_template(TALK, tokenize=False)
    again = encode_language(Texts([text]), tokenizer, 64)
    np.testing.assert_array_equal(again.input_ids, data.input_ids)


def test_a_tokenizer_that_opens_nothing(make_gpt):
    tokenizer = make_gpt(bos_token="<s>")
    data = encode_language(Texts(["<s>the film"]), tokenizer, 64)
    assert tokenizer.decode(data.input_ids[0]) == "<s>the film<|endoftext|>"


@pytest.mark.parametrize("max_length", [8, 64])
def test_labelled_texts(opens, max_length):
    tokenizer, token = opens
    tokenizer.pad_token = "<|end|>"
    texts = ["the film is good and the play is bad", "a book"]
    written = Records([token + text for text in texts], ["x"] * 2)
    plain = Records(texts, ["x"] * 2)
    assert_equal(
        *(encode_labelled(records, tokenizer, ("x",), max_length) for records in (written, plain))
    )
