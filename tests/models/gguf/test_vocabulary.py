"""The tokenizer of a GGUF file, and how it splits texts."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpjax.models import convert_gguf, load_tokenizer
from tests.support.tiny_gguf import TOKENIZER, metadata, write_llama
from tests.support.tiny_tokenizers import END, SENTENCES, TURNS

# Letters, digits and marks of several scripts, spaces of all kinds, and tokens of the vocabulary.
PIECES = st.sampled_from(
    [
        *(
            " ",
            "  ",
            "\n",
            "\n\n",
            "\t",
            "\r",
            "\u00a0",
            "'",
            ".",
            ",",
            "!",
            "_",
            "s",
            "'re",
            "'LL",
        ),
        *("ab", "ß", "é", "e\u0301", "中", "𝟘", "٣", "12", "٣4", "🙂"),
        *(*TURNS, END, "the", " film", "book", "French"),
    ]
)
TEXTS = st.one_of(st.text(max_size=20), st.lists(PIECES, max_size=12).map("".join))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Function (changes of the metadata) -> tokenizer, as it is loaded from the folder."""

    def convert(**changes):
        folder = tmp_path_factory.mktemp("gguf")
        write_llama(folder / "model.gguf", **changes)
        convert_gguf(folder / "model.gguf", folder / "lm")
        return load_tokenizer(folder / "lm")

    return convert


@pytest.fixture(scope="module")
def plain(converted):
    return converted()


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(text=TEXTS)
def test_texts_are_encoded_as_by_the_original(plain, text):
    ids = plain(text)["input_ids"]
    assert ids == TOKENIZER(text)["input_ids"]
    assert plain.decode(ids) == TOKENIZER.decode(ids)


def test_special_tokens_and_the_chat_template(plain):
    assert (plain.bos_token, plain.eos_token, plain.pad_token) == ("<s>", TURNS[1], END)
    assert plain.unk_token is None and plain.model_max_length == 64
    assert plain.convert_tokens_to_ids(metadata()["tokenizer.ggml.tokens"]) == [*range(len(plain))]
    chat = [{"role": "user", "content": "hi"}]
    rendered = plain.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|turn|>user\nhi<|end|>\n<|turn|>assistant\n"
    assert plain.decode(plain("hi<|end|>")["input_ids"], skip_special_tokens=True) == "hi"


def words(tokenizer, text):
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:stop] for _, (start, stop) in split]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["It", "'s", "  ", " 1234", " THEY", "'", "RE", "\n\n", " x", "."]),
        ("smollm", ["It", "'s", "   ", "1", "2", "3", "4", " THEY", "'", "RE", "\n\n", " x", "."]),
        ("llama-bpe", ["It", "'s", "  ", " ", "123", "4", " THEY", "'RE", "\n\n", " x", "."]),
    ],
)
def test_each_kind_splits_texts_in_its_way(converted, pre, expected):
    tokenizer = converted(**{"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False})
    assert words(tokenizer, "It's   1234 THEY'RE\n\n x.") == expected


def test_words_of_llama_3_that_are_tokens_need_no_merges(converted):
    """As in its tokenizer.json, which ignores merges for them."""
    merges = metadata()["tokenizer.ggml.merges"]
    without = [merge for merge in merges if merge.replace(" ", "") != "the"]
    assert len(without) < len(merges)
    changes = {"tokenizer.ggml.merges": without}
    assert len(converted(**changes).tokenize("the")) > 1
    whole = converted(**changes, **{"tokenizer.ggml.pre": "llama-bpe"})
    assert whole.tokenize("the") == ["the"]


@pytest.mark.parametrize(
    ("changes", "opens", "closes"),
    [
        ({}, False, False),
        ({"tokenizer.ggml.add_bos_token": True}, True, False),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}, True, True),
        ({"tokenizer.ggml.pre": "llama-bpe"}, True, False),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}, False, False),
    ],
)
def test_texts_are_opened_and_closed_as_the_file_says(converted, changes, opens, closes):
    tokenizer = converted(**changes)
    inside = tokenizer(SENTENCES[0], add_special_tokens=False)["input_ids"]
    around = tokenizer(SENTENCES[0])["input_ids"]
    opening = [tokenizer.bos_token_id] if opens else []
    closing = [tokenizer.eos_token_id] if closes else []
    assert around == opening + inside + closing


def test_a_token_of_the_user_is_found_whole_and_is_no_special_one(converted):
    entries = metadata()
    place = entries["tokenizer.ggml.tokens"].index(TURNS[0])
    kinds = [*entries["tokenizer.ggml.token_type"]]
    kinds[place] = 4
    tokenizer = converted(**{"tokenizer.ggml.token_type": kinds})
    assert place in tokenizer(f"a{TURNS[0]}b")["input_ids"]
    assert not tokenizer.added_tokens_decoder[place].special
