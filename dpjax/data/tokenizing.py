"""What every encoding asks of a tokenizer."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST_MAX_LENGTH = 8
# Bounds the memory of the tokenizer's Python objects, which is far above that of the arrays.
TEXTS_AT_ONCE = 1024


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a slow tokenizer.

    Raises:
        TypeError: naming its type.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"a fast tokenizer (tokenizer.json) is needed, got {type(tokenizer).__name__}"
        )


def check_max_length(max_length: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a `max_length` below 8 or above what the tokenizer says its model takes.

    Raises:
        ValueError: naming both numbers.
    """
    if max_length < SHORTEST_MAX_LENGTH:
        raise ValueError(
            f"max_length={max_length} leaves almost no text between the special tokens; use at "
            f"least {SHORTEST_MAX_LENGTH}"
        )
    # A tokenizer that does not know its limit says something like 1e30.
    if max_length > tokenizer.model_max_length:
        raise ValueError(
            f"max_length={max_length} is more than the {tokenizer.model_max_length} tokens that "
            "the tokenizer says its model takes"
        )


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The token ids of every text, whole, without the special tokens that would be put around."""
    if not texts:
        return []
    return tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        # Cut later, where the end-of-sequence token is there: no warning about the length.
        verbose=False,
    )["input_ids"]


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text: its beginning-of-sequence token, or nothing."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    pairs = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [token for token, _ in takewhile(lambda pair: pair[1], pairs)]
