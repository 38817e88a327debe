import numpy as np

from dpjax.models import load_tokenizer
from dpjax.models.text.random_texts import random_texts


def test_the_real_tokenizer_makes_readable_texts(minilm):
    tokenizer = load_tokenizer(minilm)
    ids = random_texts(tokenizer, np.random.default_rng(0), 50, 16)
    assert ids.shape == (50, 16)
    assert set(ids[:, 0]) == {tokenizer.cls_token_id}
    assert set(ids[:, -1]) == {tokenizer.sep_token_id}
    words = tokenizer.decode(ids.ravel(), skip_special_tokens=True).split()
    assert len(words) > 0.9 * 50 * 14
    assert all(word.isalpha() for word in words)
    assert "the" in words
