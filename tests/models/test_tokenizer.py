import json

import pytest
from models.tiny_checkpoints import write_config

from dpjax.models import load_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "clinic", "called"]


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


def write_word_level(folder, vocabulary, *, pad="[PAD]", eos=None, added=(), closing=None):
    """A tokenizer of whole words; `closing` is put at the end of every text."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_tokens([AddedToken(token) for token in added])
    if closing is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"$A {closing[0]}", special_tokens=[closing]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    settings |= {"pad_token": pad} if pad else {}
    settings |= {"eos_token": eos} if eos else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


VOCABULARY = {word: index for index, word in enumerate(WORDS)}
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
