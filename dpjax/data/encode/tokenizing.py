"""What every encoding asks of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST_MAX_LENGTH = 8
# These bound the memory of the tokenizer's Python objects, which is far above that of the arrays.
TEXTS_AT_ONCE = 1024
CHARACTERS_AT_ONCE = 4_000_000

Item = TypeVar("Item")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a slow tokenizer.

    Raises:
        TypeError: naming its type.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"a fast tokenizer (tokenizer.json) is needed, got {type(tokenizer).__name__}"
        )


def check_padding_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer without a padding token.

    Raises:
        ValueError: naming its type.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no padding token; set one, for instance "
            "tokenizer.pad_token = tokenizer.eos_token"
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


class PaddedTexts(NamedTuple):
    """N texts as arrays, padded on the right to T tokens.

    Attributes:
        input_ids: `(N, T)` int32.
        attention_mask: `(N, T)` bool, False at padding.
        truncated: `(N,)` bool, True where the text was longer.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    truncated: np.ndarray


def tokenize_padded(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    visit: Callable[[int, Any], None] | None = None,
) -> PaddedTexts:
    """Tokenises every text with its special tokens, cuts it to `max_length` tokens and pads it.

    Args:
        texts: N of them.
        tokenizer: a fast one with a padding token.
        max_length: T, with the special tokens.
        visit: called with the number of each text and its encoding, which is not kept.

    Raises:
        TypeError: the tokenizer is not a fast one.
        ValueError: `max_length` is below 8 or above what the tokenizer says its model takes, or the
            tokenizer has no padding token.
    """
    check_tokenizer(tokenizer)
    check_padding_token(tokenizer)
    check_max_length(max_length, tokenizer)
    input_ids = np.empty((len(texts), max_length), np.int32)
    attention_mask = np.empty((len(texts), max_length), np.bool_)
    truncated = np.empty(len(texts), np.bool_)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        rows = slice(start, start + TEXTS_AT_ONCE)
        encoded = tokenizer(
            list(texts[rows]),
            truncation=True,
            max_length=max_length,
            padding="max_length",
            padding_side="right",
            return_attention_mask=True,
        )
        input_ids[rows] = encoded["input_ids"]
        attention_mask[rows] = encoded["attention_mask"]
        truncated[rows] = [bool(encoding.overflowing) for encoding in encoded.encodings]
        if visit is not None:
            for row, encoding in enumerate(encoded.encodings, start):
                visit(row, encoding)
    return PaddedTexts(input_ids, attention_mask, truncated)


def in_batches(
    items: Iterable[Item], num_characters: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """The items in lists that one call of the tokenizer may take; an item is at least one list."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        size = num_characters(item)
        if batch and (len(batch) == TEXTS_AT_ONCE or characters + size > CHARACTERS_AT_ONCE):
            yield batch
            batch, characters = [], 0
        batch.append(item)
        characters += size
    if batch:
        yield batch


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The token ids of every text, whole, without the special tokens that would be put around."""
    return _tokenized(tokenizer, texts)["input_ids"]


def tokenize_with_offsets(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """The same, with the characters of each token: the first, and the one after the last."""
    encoded = _tokenized(tokenizer, texts, return_offsets_mapping=True)
    return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text: its beginning-of-sequence token, or nothing."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    pairs = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [token for token, _ in takewhile(lambda pair: pair[1], pairs)]


def opened(ids: list[int], opening: list[int]) -> list[int]:
    """The tokens of a text after those that open every text, unless the text writes them itself."""
    return ids if ids[: len(opening)] == opening else opening + ids


def _tokenized(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], return_offsets_mapping: bool = False
) -> dict[str, list[Any]]:
    encoded: dict[str, list[Any]] = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=return_offsets_mapping,
        # Cut later, where the end-of-sequence token is there: no warning about the length.
        verbose=False,
    )
    return encoded
