import json

import pytest

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


def test_tokenizer_of_a_larger_model(with_vocabulary):
    words = WORDS + [f"word{index}" for index in range(43)]
    (with_vocabulary / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(ValueError, match="has 51 tokens, but the model only 50 embeddings"):
        load_tokenizer(with_vocabulary)


def test_tokenizer_without_padding_token(with_vocabulary):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.save(str(with_vocabulary / "tokenizer.json"))
    (with_vocabulary / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    with pytest.raises(ValueError, match="has no padding token"):
        load_tokenizer(with_vocabulary)
