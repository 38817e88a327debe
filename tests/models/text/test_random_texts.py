import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dpjax.models import load_tokenizer
from dpjax.models.text.random_texts import random_texts, random_words

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


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


def test_bytes_that_are_written_as_letters_are_no_words():
    """Byte-level vocabularies write a blank as Ġ and a line end as Ċ, which are letters."""
    tokens = ["ĠĠĠ", "ĊĊ", "Ġthe", "sea", "Ã©", "Ãĩ", "<s>"]
    vocabulary = {token: row for row, token in enumerate(dict.fromkeys([*tokens, *BYTES]))}
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("s", "e"), ("se", "a")]
    for first, second in merges:
        vocabulary.setdefault(first + second, len(vocabulary))
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32)
    texts = random_words(tokenizer, np.random.default_rng(0), 200, 3)
    assert {word for text in texts for word in text.split(" ")} <= {"the", "sea", "th", "se"}
    assert random_texts(tokenizer, np.random.default_rng(0), 200, 3).shape == (200, 3)
