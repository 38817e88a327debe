"""Tokens that no text has: reserved names in a vocabulary, and rows beyond it."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# [unused12] of BERT, <unused12> of Gemma, <|reserved_special_token_12|> of Llama, <SPECIAL_12> and
# [control_12] of Mistral, <|placeholder12|> of Phi, <|extra_12|> of Qwen,
# madeupword0012 of RoBERTa.
_RESERVED = re.compile(
    r"[<\[]\|?(unused|reserved_special_token|reserved|placeholder|special|control|extra)"
    r"[_-]?\d+\|?[>\]]|madeupword\d+",
    re.IGNORECASE,
)
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ADDED = "<|canary_{}|>"


def find_unused_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[str, ...]:
    """Finds tokens that nobody writes: first reserved ones, then one for each spare row.

    Many checkpoints reserve names for later use, such as `[unused5]`; many have more rows of the
    embedding than their tokenizer has tokens. Tokens that have a role (padding, end of text) or
    occur in the chat template are left out.

    Args:
        tokenizer: the checkpoint's; it is not changed.
        vocab_size: rows of the model's embedding.

    Returns:
        different tokens. Those for spare rows are named `<|canary_0|>` and so on;
        `canary_tokenizer` teaches them to a tokenizer.
    """
    vocabulary = tokenizer.get_vocab()
    in_use = {getattr(tokenizer, f"{role}_token_id", None) for role in _ROLES}
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    reserved = [
        (number, token)
        for token, number in vocabulary.items()
        if _RESERVED.fullmatch(token)
        and number not in in_use
        and number < vocab_size
        and token not in template
    ]
    num_spare = vocab_size - 1 - max(vocabulary.values(), default=-1)
    spare = [_ADDED.format(number) for number in range(num_spare)]
    return (*(token for _, token in sorted(reserved)), *spare)


def find_rare_tokens(tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> tuple[str, ...]:
    """Finds ordinary tokens that are probably rare, for a vocabulary without unused ones.

    The tokens with the highest numbers: byte-pair encoding makes them last, of the rarest pairs. A
    private record may hold one, which weakens the canary with this secret and no other. The choice
    depends on the tokenizer alone, so it tells nothing about records.

    Args:
        tokenizer: the checkpoint's.
        num_tokens: how many.

    Returns:
        different tokens, the highest number first, none of them special.

    Raises:
        ValueError: the tokenizer has fewer ordinary tokens.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    numbered = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    found: list[str] = []
    for number, token in reversed(numbered):
        if len(found) == num_tokens:
            break
        if number not in special and spells_something(tokenizer, number):
            found.append(token)
    if len(found) < num_tokens:
        raise ValueError(
            f"the tokenizer must have {num_tokens} ordinary tokens, got {len(found)}. Take fewer "
            "canaries"
        )
    return tuple(found)


def spells_something(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Whether a token stands for characters: not blanks, a part of one, or a reserved name.

    Args:
        tokenizer: the checkpoint's.
        token: its number.
    """
    text = str(tokenizer.decode([token])).strip()
    return bool(text) and "�" not in text and not _RESERVED.fullmatch(text)


def canary_tokenizer(
    tokenizer: PreTrainedTokenizerBase, new_tokens: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Copies a tokenizer and lets the copy read each of the tokens as one.

    The copy is for canaries alone. Training records keep the tokenizer of the checkpoint: a record
    that happens to spell `[unused5]` must not change because somebody audits.

    Args:
        tokenizer: the checkpoint's; it is not changed.
        new_tokens: in the order of `find_unused_tokens`.

    Returns:
        the copy, or `tokenizer` itself if there is no new token.
    """
    if not new_tokens:
        return tokenizer
    from tokenizers import AddedToken

    known = copy.deepcopy(tokenizer)
    tokens = [AddedToken(token, special=True, normalized=False) for token in new_tokens]
    known.add_tokens(tokens, special_tokens=True)
    return known


def rows_of_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    """Returns the row of the embedding for each token.

    Args:
        tokenizer: one that has them, such as `canary_tokenizer` makes.
        tokens: in any order.

    Raises:
        KeyError: the tokenizer has no such token.
    """
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in tokens]
