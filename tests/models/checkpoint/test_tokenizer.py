import json

import pytest

from dpjax.models import load_tokenizer
from tests.support.tiny_checkpoints import write_config
from tests.support.tiny_tokenizers import VOCABULARY, WORDS, write_word_level


@pytest.fixture
def with_vocabulary(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return folder


def test_tokenizer_of_the_checkpoint(with_vocabulary):
    tokenizer = load_tokenizer(with_vocabulary)
    assert tokenizer.is_fast
    assert tokenizer("The clinic called")["input_ids"] == [2, 5, 6, 7, 3]


def test_folder_without_tokenizer(folder):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer \(tokenizer.json, vocab.txt"):
        load_tokenizer(folder)


# The model has 50 rows.
LARGEST_IDS = {
    "of the vocabulary": lambda folder, last: write_word_level(folder, VOCABULARY | {"late": last}),
    "of an added token": lambda folder, last: write_word_level(
        folder, VOCABULARY | {f"w{i}": i for i in range(8, last)}, added=["late"]
    ),
    "put around a text": lambda folder, last: write_word_level(
        folder, VOCABULARY, closing=("late", last)
    ),
}


@pytest.mark.parametrize("where", LARGEST_IDS)
def test_the_largest_id_must_be_a_row_of_the_embedding(folder, where):
    LARGEST_IDS[where](folder, 49)
    assert 49 in load_tokenizer(folder)("late")["input_ids"]
    for last in (50, 60):
        LARGEST_IDS[where](folder, last)
        with pytest.raises(ValueError, match=rf"largest id .* is {last} .* for the ids 0 to 49"):
            load_tokenizer(folder)


def test_tokenizer_without_padding_token(folder):
    write_word_level(folder, VOCABULARY, pad=None)
    with pytest.raises(ValueError, match="has no padding token"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, needs_padding=False)("the")["input_ids"] == [5]


def test_texts_of_a_decoder_must_not_end_with_padding(tmp_path):
    decoder = write_config(tmp_path / "decoder", "llama")
    write_word_level(decoder, VOCABULARY, closing=("[PAD]", 0))
    with pytest.raises(ValueError, match="ends every text with '\\[PAD\\]', which is its padding"):
        load_tokenizer(decoder)
    assert load_tokenizer(decoder, needs_padding=False)("the")["input_ids"] == [5, 0]


DAMAGED = {
    "tokenizer.json": [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"model": {"type": "WordLevel", "vocab": {"a": -1}}}',
        '{"model": {"type": "None"}}',
        "[" * 100_000,
        "\udcff",
    ],
    "tokenizer_config.json": ["", "{", "[]", '{"a": ' * 3000, '{"a": "\\ud83d"}', "\udcff"],
    "special_tokens_map.json": ["[1", "3"],
    "added_tokens.json": ["{'a': 1}"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in DAMAGED.items() for text in texts]
)
def test_a_damaged_file_is_named(folder, name, text):
    write_word_level(folder, VOCABULARY)
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_tokenizer(folder)
