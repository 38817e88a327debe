"""Texts of random words, to look at a model without looking at records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def random_texts(
    tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, count: int, length: int
) -> np.ndarray:
    """Draws texts that say nothing, as tokens, with the special tokens of a text around them.

    Args:
        tokenizer: of the checkpoint.
        rng: draws the words.
        count: of texts.
        length: of each, in tokens.

    Returns:
        `(count, length)` int32 token ids, without padding.

    Raises:
        ValueError: the tokenizer has no word.
    """
    texts = random_words(tokenizer, rng, count, length)
    # Every word is at least one token, so that cutting leaves texts of one length, no padding.
    cut = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    return np.asarray(cut, np.int32)


def random_words(
    tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, count: int, num_words: int
) -> list[str]:
    """Draws texts that say nothing: words of the vocabulary by Zipf's law.

    They are public: nothing but the tokenizer is read.

    Args:
        tokenizer: of the checkpoint.
        rng: draws the words.
        count: of texts.
        num_words: of each.

    Raises:
        ValueError: the tokenizer has no word.
    """
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    read = (tokenizer.convert_tokens_to_string([p]).strip() for p in pieces if _may_be_word(p))
    words = [word for word in read if len(word) > 1 and word.isalpha()]
    if not words:
        raise ValueError(f"the tokenizer's {len(pieces)} tokens contain no word to make texts of")
    ranks = np.floor(len(words) ** rng.random((count, num_words))).astype(int) - 1
    return [" ".join(words[rank] for rank in row) for row in ranks]


def _may_be_word(piece: str) -> bool:
    """Whether a token looks like a whole word; Ġ and ▁ stand for a space.

    Whether it is one is seen when it is read as text: byte-level vocabularies write blanks and
    pieces of letters with letters too.
    """
    return piece.removeprefix("Ġ").removeprefix("▁").isalpha()
