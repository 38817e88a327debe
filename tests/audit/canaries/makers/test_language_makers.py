"""Canaries of language models: their secret is on the learnt side, different and repeatable."""

import numpy as np
import pytest

from dpjax.audit.canaries.checks import find_secret_problems
from dpjax.audit.canaries.encoding import encode_canaries
from dpjax.audit.canaries.makers.high_temperature import make_high_temperature
from dpjax.audit.canaries.makers.new_token import make_new_token
from dpjax.audit.canaries.makers.random_tokens import make_random_labelled, make_random_tokens
from dpjax.audit.canaries.makers.unused_tokens import (
    canary_tokenizer,
    find_rare_tokens,
    find_unused_tokens,
)
from dpjax.data import Completions, Texts
from dpjax.privatize import RunKey
from tests.support.tiny_checkpoints import random_model
from tests.support.tiny_tokenizers import make_tokenizer

KEY = RunKey.from_seed(11)


@pytest.fixture(scope="module")
def gpt():
    return make_tokenizer()


def with_words(words, **options):
    """A tokenizer whose vocabulary has more words."""
    import tokenizers
    import transformers

    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "the", *words])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", **options
    )


RESERVED = [
    "[unused0]",
    "[unused993]",
    "<unused12>",
    "<|reserved_special_token_3|>",
    "<|reserved_200017|>",
    "<SPECIAL_31>",
    "[control_8]",
    "<|placeholder1|>",
    "<|extra_7|>",
    "madeupword0002",
]
ORDINARY = [
    "unused",
    "unused1",
    "special",
    "[extra]",
    "<|im_start|>",
    "reserved12",
    "##5",
    "[MASK]",
]


def test_reserved_names_are_found():
    tokenizer = with_words([*RESERVED, *ORDINARY])
    assert find_unused_tokens(tokenizer, len(tokenizer)) == tuple(RESERVED)


def test_tokens_with_a_role_or_in_the_template_are_used():
    words = ["<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"]
    tokenizer = with_words(
        words, eos_token="<|reserved_1|>", chat_template="{{ '<|reserved_3|>' }}"
    )
    assert find_unused_tokens(tokenizer, len(tokenizer)) == ("<|reserved_2|>",)


def test_rows_beyond_the_vocabulary_get_tokens(gpt):
    size = max(gpt.get_vocab().values()) + 1
    before = gpt.get_vocab()
    assert find_unused_tokens(gpt, size) == ()
    found = find_unused_tokens(gpt, size + 3)
    assert found == ("<|canary_0|>", "<|canary_1|>", "<|canary_2|>")
    known = canary_tokenizer(gpt, found)
    assert known.convert_tokens_to_ids(list(found)) == [size, size + 1, size + 2]
    assert known("a good film<|canary_1|>")["input_ids"][-1] == size + 1
    assert gpt.get_vocab() == before and canary_tokenizer(gpt, ()) is gpt
    assert len(gpt("<|canary_1|>")["input_ids"]) > 1


def test_a_word_that_is_split_becomes_one_token():
    """BERT spells [unused5] in pieces unless it is told."""
    tokenizer = with_words(["[unused5]", "[", "unused5", "]"])
    row = tokenizer.get_vocab()["[unused5]"]
    assert len(tokenizer("the [unused5]")["input_ids"]) == 4
    assert canary_tokenizer(tokenizer, ["[unused5]"])("the [unused5]")["input_ids"] == [2, row]


@pytest.mark.parametrize("prefixes", [(), ("the film is", "a good")])
def test_a_new_token_is_the_only_target(gpt, prefixes):
    size = len(gpt) + 5
    canaries = make_new_token(5, run_key=KEY, tokenizer=gpt, vocab_size=size, prefixes=prefixes)
    assert canaries.records.completions == list(canaries.secrets)
    assert len(set(canaries.secrets)) == 5 and len(set(canaries.records.prompts)) == (
        len(prefixes) or 5
    )
    encoded = encode_canaries(canaries, gpt, 64)
    targets = encoded.input_ids[encoded.loss_mask]
    assert targets.tolist() == list(range(len(gpt), size))
    assert encoded.loss_mask.sum(axis=1).tolist() == [1] * 5
    # The end-of-sequence token is there, and no target.
    assert (encoded.input_ids == gpt.eos_token_id).any(axis=1).all()


def test_rare_tokens_serve_where_none_is_unused(gpt):
    tokens = find_rare_tokens(gpt, 5)
    rows = gpt.convert_tokens_to_ids(list(tokens))
    # The last merges, and no special token.
    assert rows == sorted(rows, reverse=True) and rows[0] == max(gpt.get_vocab().values())
    canaries = make_new_token(
        5, run_key=KEY, tokenizer=gpt, vocab_size=len(gpt), prefixes=["the film"], tokens=tokens
    )
    encoded = encode_canaries(canaries, gpt, 64)
    assert encoded.input_ids[encoded.loss_mask].tolist() == rows
    assert find_secret_problems(canaries, encoded, gpt) == ()
    with pytest.raises(ValueError, match="must have 1000 ordinary tokens"):
        find_rare_tokens(gpt, 1000)


def test_rare_tokens_serve_where_unused_ones_are_too_few(gpt):
    unused = find_unused_tokens(gpt, len(gpt) + 2)
    canaries = make_new_token(3, run_key=KEY, tokenizer=gpt, vocab_size=len(gpt) + 2)
    assert canaries.secrets == (*unused, *find_rare_tokens(gpt, 1)) and len(unused) == 2
    with pytest.raises(ValueError, match="need as many tokens, got 1"):
        make_new_token(2, run_key=KEY, tokenizer=gpt, vocab_size=len(gpt), tokens=unused[:1])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("film", "film"), "one row for several"),
        (("film", "<|brand new|>"), "must have rows below"),
        (("film",), "got 1"),
    ],
)
def test_tokens_without_a_row_of_their_own_are_refused(tokens, message):
    tokenizer = with_words(["film", "play"])
    with pytest.raises(ValueError, match=message):
        make_new_token(
            2, run_key=KEY, tokenizer=tokenizer, vocab_size=len(tokenizer), tokens=tokens
        )


def test_random_texts_are_of_ordinary_tokens(gpt):
    canaries = make_random_tokens(20, run_key=KEY, tokenizer=gpt, num_tokens=12)
    assert isinstance(canaries.records, Texts) and len(set(canaries.records.texts)) == 20
    assert canaries.secrets == tuple(canaries.records.texts)
    for text in canaries.records.texts:
        assert "�" not in text and "<|" not in text and text == text.strip() != ""
    ids = gpt(list(canaries.records.texts), add_special_tokens=False)["input_ids"]
    assert 6 < np.mean([len(row) for row in ids]) < 30
    encoded = encode_canaries(canaries, gpt, 64)
    assert (encoded.loss_mask.sum(axis=1) == encoded.attention_mask.sum(axis=1) - 1).all()


def test_random_texts_depend_on_key_and_id_alone(gpt):
    def make(num, key):
        canaries = make_random_tokens(num, run_key=key, tokenizer=gpt, num_tokens=8)
        return canaries.records.texts

    assert make(3, KEY) == make(5, KEY)[:3]
    assert not set(make(3, KEY)) & set(make(3, RunKey.from_seed(12)))


def test_random_labels_are_uniform_and_of_the_key(gpt):
    def make(seed, names=("a", "b", "c")):
        key = RunKey.from_seed(seed)
        return make_random_labelled(300, run_key=key, tokenizer=gpt, label_names=names)

    canaries = make(1)
    assert canaries.secrets == tuple(canaries.records.labels)
    assert all(70 <= canaries.secrets.count(name) <= 130 for name in "abc")
    assert canaries.records == make(1).records != make(2).records
    with pytest.raises(ValueError, match="two or more"):
        make(1, names=("a",))


def test_random_texts_have_no_reserved_name():
    tokenizer = with_words([*RESERVED, "film"])
    canaries = make_random_tokens(5, run_key=KEY, tokenizer=tokenizer, num_tokens=8)
    words = {word for text in canaries.records.texts for word in text.split()}
    assert words == {"the", "film"}


def test_a_vocabulary_that_spells_nothing_is_refused():
    tokenizer = with_words([])
    tokenizer.add_tokens(["the"], special_tokens=True)
    with pytest.raises(ValueError, match="needs tokens that spell something"):
        make_random_tokens(1, run_key=KEY, tokenizer=tokenizer, num_tokens=4)


@pytest.fixture(scope="module")
def write():
    """Makes canaries by one model, compiled once."""
    tokenizer = with_words([f"word{number}" for number in range(58)], model_max_length=40)
    model = random_model("llama", "causal_lm")

    def make(key=KEY, num=7, temperature=1.5):
        return make_high_temperature(
            num,
            run_key=key,
            tokenizer=tokenizer,
            model=model,
            prompts=["the word3", "word8"],
            temperature=temperature,
            num_tokens=5,
        )

    return make


def test_the_base_model_writes_different_answers(write):
    canaries = write()
    assert isinstance(canaries.records, Completions)
    assert canaries.records.prompts == ["the word3", "word8"] * 3 + ["the word3"]
    assert len(set(canaries.secrets)) == 7
    assert canaries.records.completions == list(canaries.secrets)
    assert write().secrets == canaries.secrets
    assert not set(write(RunKey.from_seed(1)).secrets) & set(canaries.secrets)


def test_more_answers_than_the_model_has_batches(write):
    canaries = write(num=70)
    assert len(set(canaries.secrets)) == 70
    # A batch of its own has draws of its own.
    assert canaries.secrets[:32] != canaries.secrets[32:64]


def test_a_model_that_repeats_itself_is_refused(write):
    with pytest.raises(ValueError, match="must write 40 different texts, got 2 in 8 rounds"):
        write(num=40, temperature=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "prompts must be texts"),
        ({"prompts": "the"}, "prompts must be texts"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"num_tokens": 0}, "num_tokens must be a whole number"),
    ],
)
def test_settings_that_write_nothing_are_refused(gpt, change, message):
    right = {"model": None, "tokenizer": gpt, "prompts": ["the"]}
    with pytest.raises(ValueError, match=message):
        make_high_temperature(2, run_key=KEY, **(right | change))
