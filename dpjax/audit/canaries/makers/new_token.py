"""A token that hardly anybody writes, to be learnt after a prefix: no base model knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpjax.audit.canaries.makers.base import Canaries, canary_rng, number_ids
from dpjax.audit.canaries.makers.random_tokens import random_text
from dpjax.audit.canaries.makers.unused_tokens import (
    canary_tokenizer,
    find_rare_tokens,
    find_unused_tokens,
    rows_of_tokens,
)
from dpjax.data import Completions
from dpjax.privatize import RunKey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KIND = "new-token"
_PREFIX_TOKENS = 8


def make_new_token(
    num_canaries: int,
    *,
    run_key: RunKey,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    prefixes: Sequence[str] = (),
    tokens: Sequence[str] = (),
) -> Canaries:
    """Makes prompts whose whole answer is one token that occurs nowhere else.

    Each canary has a token of its own, so canaries do not teach each other's secret (Panda, Tang,
    Nasr, Choquette-Choo and Mittal 2025, "Privacy Auditing of Large Language Models",
    arXiv:2503.06808). `encode_canaries` makes it the only target.

    Args:
        num_canaries: N.
        run_key: the secret of the run, which draws prefixes.
        tokenizer: the checkpoint's.
        vocab_size: rows of the model's embedding.
        prefixes: texts that anybody may know, taken in turn; none: 8 random tokens for each canary.
        tokens: the secrets, one for each canary; chosen without looking at private records. None:
            what `find_unused_tokens` finds, and where that is too few, `find_rare_tokens` too.

    Returns:
        N canaries with records `Completions`; each completion is a secret.

    Raises:
        ValueError: there are fewer tokens than canaries, one occurs twice, has no row of the
            embedding or shares one, or a number is not a whole number of at least 1.
    """
    ids = number_ids(KIND, num_canaries)
    secrets = tuple(tokens or _choose_tokens(num_canaries, tokenizer, vocab_size))[:num_canaries]
    if len(secrets) < num_canaries:
        raise ValueError(
            f"{num_canaries} canaries of kind {KIND!r} need as many tokens, got {len(secrets)}."
            " Take fewer canaries, or leave tokens out"
        )
    _check_rows(secrets, tokenizer, vocab_size)
    prompts: list[str | list[dict[str, str]]] = [
        prefixes[number % len(prefixes)]
        if prefixes
        else random_text(tokenizer, _PREFIX_TOKENS, canary_rng(run_key, name))
        for number, name in enumerate(ids)
    ]
    return Canaries(
        kind=KIND,
        ids=ids,
        records=Completions(prompts, [*secrets]),
        secrets=secrets,
        new_tokens=secrets,
    )


def _choose_tokens(
    number: int, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> tuple[str, ...]:
    unused = find_unused_tokens(tokenizer, vocab_size)
    if len(unused) >= number:
        return unused
    return (*unused, *find_rare_tokens(tokenizer, number - len(unused)))


def _check_rows(tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Refuses tokens that do not have a row each."""
    known = canary_tokenizer(tokenizer, tokens)
    rows = rows_of_tokens(known, tokens)
    if len(set(rows)) < len(rows):
        raise ValueError("tokens must have a row of the embedding each, got one row for several")
    for token, row in zip(tokens, rows, strict=True):
        if not 0 <= row < vocab_size:
            raise ValueError(
                f"tokens must have rows below {vocab_size}, got {token!r} with row {row}. Take "
                "those of find_unused_tokens"
            )
