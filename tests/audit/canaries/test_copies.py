"""Left-out records that training saw all the same, as copies."""

import numpy as np
import pytest

from dpjax.audit import count_copies
from dpjax.data import Records, encode_labelled
from tests.support.tiny_tokenizers import make_tokenizer


def test_copies_are_counted_whatever_label_and_padding():
    texts = ["good", "good", "bad", "the film is bad", "bad"]
    records = Records(texts, ["yes", "no", "no", "yes", "no"])
    encoded = encode_labelled(records, make_tokenizer(pad_token="<s>"), ("no", "yes"), 32)
    coins = np.array([True, False, False, False, False])
    assert count_copies(encoded, coins) == 1
    assert count_copies(encoded, ~coins) == 1
    assert count_copies(encoded, np.array([True, False, True, False, False])) == 2
    assert count_copies(encoded, np.ones(5, bool)) == 0
    with pytest.raises(ValueError, match=r"included must be \(5,\)"):
        count_copies(encoded, coins[:4])
