"""Encoding with a tokenizer made here, against one text at a time."""

from __future__ import annotations

import numpy as np
import pytest

from dpjax.data import Records, TextDataset, encode_labelled

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "is", "good", "bad", "not", "##s"]
PAD, UNK, CLS, SEP = range(4)
NAMES = ("bad", "good")


@pytest.fixture(scope="module")
def make_tokenizer():
    import tokenizers
    import transformers

    def make(**options):
        backend = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(
                vocab={word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"
            )
        )
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
        defaults = {"unk_token": "[UNK]", "pad_token": "[PAD]", "model_max_length": 64}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **defaults | options)

    return make


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer()


def test_arrays(tokenizer):
    records = Records(
        ["the films is good", "unheard", " ".join(["bad"] * 6), " ".join(["bad"] * 7)],
        ["good", "bad", "bad", "good"],
    )
    dataset = encode_labelled(records, tokenizer, NAMES, 8)
    expected = [
        [CLS, 4, 5, 10, 6, 7, SEP, PAD],
        [CLS, UNK, SEP, PAD, PAD, PAD, PAD, PAD],
        [CLS, 8, 8, 8, 8, 8, 8, SEP],
        [CLS, 8, 8, 8, 8, 8, 8, SEP],
    ]
    np.testing.assert_array_equal(dataset.input_ids, expected)
    np.testing.assert_array_equal(dataset.attention_mask, np.array(expected) != PAD)
    np.testing.assert_array_equal(dataset.labels, [1, 0, 0, 1])
    np.testing.assert_array_equal(dataset.truncated, [False, False, False, True])
    assert (len(dataset), dataset.num_truncated) == (4, 1)
    assert (dataset.input_ids.dtype, dataset.labels.dtype) == (np.int32, np.int32)
    assert dataset.attention_mask.dtype == np.bool_


def test_many_records_keep_their_order(make_tokenizer):
    # The padding side of the checkpoint must not matter.
    tokenizer = make_tokenizer(padding_side="left")
    texts = [" ".join(WORDS[4 + i % 6] for i in range(n % 9 + 1)) for n in range(2500)]
    dataset = encode_labelled(Records(texts, ["bad"] * 2500), tokenizer, NAMES, 8)
    for row in range(0, 2500, 97):
        ids = tokenizer(texts[row], truncation=True, max_length=8)["input_ids"]
        np.testing.assert_array_equal(dataset.input_ids[row, : len(ids)], ids)
        assert not dataset.attention_mask[row, len(ids) :].any()
        assert dataset.attention_mask[row].sum() == len(ids)
    assert dataset.num_truncated == sum(len(text.split()) > 6 for text in texts)


def test_no_records(tokenizer):
    dataset = encode_labelled(Records([], []), tokenizer, NAMES, 8)
    assert dataset.input_ids.shape == (0, 8)
    assert len(dataset) == dataset.num_truncated == 0


def test_take():
    dataset = TextDataset(
        input_ids=np.arange(12, dtype=np.int32).reshape(3, 4),
        attention_mask=np.ones((3, 4), np.bool_),
        labels=np.array([0, 1, 0], np.int32),
        truncated=np.array([True, False, False]),
    )
    taken = dataset.take(np.array([2, 0, 0]))
    np.testing.assert_array_equal(taken.input_ids[:, 0], [8, 0, 0])
    np.testing.assert_array_equal(taken.labels, [0, 0, 0])
    assert taken.num_truncated == 2
    assert len(dataset.take(np.array([]))) == 0


@pytest.mark.parametrize(
    ("max_length", "options", "labels", "message"),
    [
        (7, {}, ["bad"], "max_length=7 leaves almost no text.*at least 8"),
        (65, {}, ["bad"], "max_length=65 is more than the 64 tokens"),
        (8, {"pad_token": None}, ["bad"], "no padding token"),
        (8, {}, ["awful"], r"label 'awful' is not one of \('bad', 'good'\)"),
    ],
)
def test_refusals(max_length, options, labels, message, make_tokenizer):
    with pytest.raises(ValueError, match=message):
        encode_labelled(Records(["film"], labels), make_tokenizer(**options), NAMES, max_length)


def test_slow_tokenizer():
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(TypeError, match=r"fast tokenizer.*got SlowTokenizer"):
        encode_labelled(Records(["film"], ["bad"]), SlowTokenizer(), NAMES, 8)
