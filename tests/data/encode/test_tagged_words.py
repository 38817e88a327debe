"""A tag counts at the first token of its word, whatever the tokenizer makes of words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpjax.data import TaggedWords, encode_tagged_words
from tests.support.tiny_tokenizers import make_tokenizer

NAMES = ("O", "PER", "LOC")
LENGTH = 12


@pytest.fixture(scope="module")
def word_pieces():
    import tokenizers
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "is", "##s", "##er", "good"]
    vocabulary = {word: row for row, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    )


def test_arrays(word_pieces):
    records = TaggedWords(
        [["films", "is", "gooder"], ["the"], ["filmser"] * 5],
        [["PER", "O", "LOC"], ["LOC"], ["PER", "LOC", "PER", "LOC", "PER"]],
    )
    dataset = encode_tagged_words(records, word_pieces, NAMES, 8)
    expected_ids = [
        [2, 5, 7, 6, 9, 8, 3, 0],
        [2, 4, 3, 0, 0, 0, 0, 0],
        [2, 5, 7, 8, 5, 7, 8, 3],
    ]
    counts = np.zeros((3, 8), bool)
    counts[0, [1, 3, 4]] = counts[1, 1] = counts[2, [1, 4]] = True
    labels = np.zeros((3, 8), int)
    labels[0, [1, 3, 4]], labels[1, 1], labels[2, [1, 4]] = [1, 0, 2], 2, [1, 2]
    np.testing.assert_array_equal(dataset.input_ids, expected_ids)
    np.testing.assert_array_equal(dataset.attention_mask, np.array(expected_ids) != 0)
    np.testing.assert_array_equal(dataset.loss_mask, counts)
    np.testing.assert_array_equal(dataset.labels, labels)
    np.testing.assert_array_equal(dataset.truncated, [False, False, True])


def byte_level():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


BYTE_LEVEL = byte_level()


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.text("goadfilmé 漢.-", min_size=1, max_size=4), st.sampled_from(NAMES))
        .map(lambda pair: (pair[0].strip(), pair[1]))
        .filter(lambda pair: pair[0]),
        min_size=1,
        max_size=4,
    )
)
def test_each_word_that_is_not_cut_off_counts_once_with_its_tag(pairs):
    words, tags = ([pair[side] for pair in pairs] for side in (0, 1))
    dataset = encode_tagged_words(TaggedWords([words], [tags]), BYTE_LEVEL, NAMES, 64)
    assert not dataset.truncated[0]
    counted = [NAMES[row] for row in dataset.labels[0][dataset.loss_mask[0]]]
    assert counted == tags
    assert np.all(dataset.attention_mask[0][dataset.loss_mask[0]])


def test_an_unknown_tag_is_refused(word_pieces):
    with pytest.raises(ValueError, match="label 'ORG' is not one of"):
        encode_tagged_words(TaggedWords([["the"]], [["ORG"]]), word_pieces, NAMES, LENGTH)


def test_a_tokenizer_without_padding_is_refused():
    with pytest.raises(ValueError, match="has no padding token"):
        encode_tagged_words(TaggedWords([["the"]], [["O"]]), make_tokenizer(), NAMES, LENGTH)


def test_words_without_a_token(word_pieces):
    """The tokenizer drops a word of blanks: it does not count, and neither does such a text."""
    records = TaggedWords([["the", "\u2003", "film"], ["\u2003"]], [["O", "PER", "LOC"], ["PER"]])
    dataset = encode_tagged_words(records, word_pieces, NAMES, 8)
    assert dataset.labels[0][dataset.loss_mask[0]].tolist() == [0, 2]
    assert dataset.without_targets.tolist() == [False, True]
    assert dataset.num_without_targets == 1
