"""Texts that several units have."""

import numpy as np

from dpjax.data import EncodedRecords, count_shared_texts


def encoded(*texts):
    longest = max(map(len, texts))
    ids = np.array([[*text, *[0] * (longest - len(text))] for text in texts], np.int32)
    mask = np.array([[at < len(text) for at in range(longest)] for text in texts])
    return EncodedRecords(ids, mask, np.zeros(len(texts), bool))


def test_records_of_other_units_are_counted():
    records = encoded([5, 6], [5, 6], [5], [7, 8, 9], [5, 6])
    assert count_shared_texts(records) == 3
    assert count_shared_texts(records, np.array([0, 0, 1, 2, 0])) == 0
    assert count_shared_texts(records, np.array([0, 0, 1, 2, 3])) == 3


def test_padding_and_an_equal_beginning_are_no_text():
    assert count_shared_texts(encoded([5, 6], [5, 6, 0], [5])) == 0
