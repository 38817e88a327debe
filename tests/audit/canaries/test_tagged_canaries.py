"""Canaries of words with tags: what is drawn, and that they are kept and encoded as records are."""

import json

import numpy as np
import pytest

from dpjax.audit import Canaries, encode_canaries, make_canaries
from dpjax.data import TaggedWords, encode_tagged_words
from dpjax.privatize import RunKey
from tests.support.tiny_words import BAD, GOOD, NEUTRAL

LABELS = ("B-PER", "I-PER", "O")
HELD_OUT = TaggedWords(
    [["good", "film"], ["bad", "film"], ["good", "film"], ["dull"]],
    [["B-PER", "O"], ["O", "O"], ["O", "O"], ["I-PER"]],
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import BertTokenizer

    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", *GOOD, *BAD, *NEUTRAL)
    return BertTokenizer({word: number for number, word in enumerate(words)})


def made(kind, tokenizer, number=3, seed=1):
    given = {"held_out": HELD_OUT, "label_names": LABELS}
    if kind == "random-labelled":
        given = {"tokenizer": tokenizer, "label_names": LABELS, "record_type": TaggedWords}
        given["num_tokens"] = 6
    return make_canaries(kind, number, run_key=RunKey.from_seed(seed), **given)


@pytest.mark.parametrize("kind", ["random-labelled", "mislabelled"])
def test_they_are_words_with_tags_that_the_key_draws(kind, tokenizer):
    canaries = made(kind, tokenizer)
    assert isinstance(canaries.records, TaggedWords) and len(canaries) == 3
    assert list(canaries.secrets) == list(map(" ".join, canaries.records.tags))
    assert made(kind, tokenizer).records == canaries.records
    assert made(kind, tokenizer, seed=2).records != canaries.records
    kept = Canaries.from_dict(json.loads(json.dumps(canaries.to_dict())))
    assert kept.records == canaries.records and kept.secrets == canaries.secrets
    encoded = encode_canaries(canaries, tokenizer, 16, label_names=LABELS)
    as_records = encode_tagged_words(canaries.records, tokenizer, LABELS, 16)
    assert encoded.fingerprint() == as_records.fingerprint()
    assert (encoded.loss_mask.sum(axis=1) > 0).all()


def test_random_words_have_every_tag_about_as_often(tokenizer):
    tags = made("random-labelled", tokenizer, number=200).records.labels
    shares = [tags.count(label) / len(tags) for label in LABELS]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)


def test_no_word_of_a_real_sentence_keeps_its_tag():
    canaries = made("mislabelled", None)
    # Two sentences have the same words: one of them is enough.
    assert len(set(map(" ".join, canaries.records.words))) == 3
    for row, words, tags in zip(
        canaries.source_rows, canaries.records.words, canaries.records.tags, strict=True
    ):
        assert words == HELD_OUT.words[row]
        assert all(new != own for new, own in zip(tags, HELD_OUT.tags[row], strict=True))
    with pytest.raises(ValueError, match="need as many different texts, got 3"):
        made("mislabelled", None, number=4)
