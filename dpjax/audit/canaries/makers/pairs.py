"""Pairs of answers whose order nobody could know: of random tokens, or held-out ones swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpjax.audit.canaries.makers.base import Canaries, canary_rng, number_ids
from dpjax.audit.canaries.makers.random_tokens import random_text
from dpjax.data import Preferences, message_text
from dpjax.privatize import RunKey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dpjax.data import Message

RANDOM_KIND = "random-pair"
SWAPPED_KIND = "swapped-pair"


def make_random_pairs(
    num_canaries: int,
    *,
    run_key: RunKey,
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int = 32,
) -> Canaries:
    """Makes prompts of random tokens with two answers of random tokens.

    Nothing but training on a canary tells which answer is preferred, and no reserve of real records
    is needed.

    Args:
        num_canaries: N.
        run_key: the secret of the run, which draws the tokens.
        tokenizer: the checkpoint's.
        num_tokens: tokens drawn for a prompt and an answer together, half of them for each; at
            least 1.

    Returns:
        N canaries with records `Preferences`; each chosen answer is a secret.

    Raises:
        ValueError: as for `make_random_tokens`, or the vocabulary is so small that both answers of
            a canary came out the same.
    """
    ids = number_ids(RANDOM_KIND, num_canaries)
    of_each = max(1, num_tokens // 2)
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in ids:
        rng = canary_rng(run_key, name)
        texts = [random_text(tokenizer, of_each, rng) for _ in columns]
        if texts[1] == texts[2]:
            raise ValueError(
                f"both answers of {name!r} are the same {of_each} random tokens. Take longer ones, "
                f"or canaries of kind {SWAPPED_KIND!r}"
            )
        for column, text in zip(columns, texts, strict=True):
            column.append(text)
    prompts, chosen, rejected = columns
    return Canaries(
        kind=RANDOM_KIND,
        ids=ids,
        records=Preferences([*prompts], [*chosen], [*rejected]),
        secrets=tuple(chosen),
    )


def make_swapped_pairs(num_canaries: int, *, run_key: RunKey, held_out: Preferences) -> Canaries:
    """Makes pairs in which the rejected answer counts as the chosen one.

    Take them from a reserve that serves nothing else: a pair that is trained on as well, or on
    which accuracy is measured, spoils both. `Canaries.source_rows` says which rows were drawn.

    Args:
        num_canaries: N.
        run_key: the secret of the run, which draws rows.
        held_out: pairs that are not in the training data.

    Returns:
        N canaries with records `Preferences`; each answer that was rejected is a secret, and all
        pairs differ.

    Raises:
        ValueError: there are fewer different pairs than canaries.

    Example:
        >>> held_out = Preferences(["Is it open?"], ["Until six."], ["No idea."])
        >>> make_swapped_pairs(1, run_key=RunKey.from_seed(1), held_out=held_out).secrets
        ('No idea.',)
    """
    ids = number_ids(SWAPPED_KIND, num_canaries)
    order = canary_rng(run_key, SWAPPED_KIND).permutation(len(held_out)).tolist()
    units = list(held_out.units())
    first: dict[bytes, int] = {}
    for row in order:
        first.setdefault(units[row], row)
    rows = list(first.values())[:num_canaries]
    if len(rows) < num_canaries:
        raise ValueError(
            f"{num_canaries} canaries of kind {SWAPPED_KIND!r} need as many different pairs, got "
            f"{len(rows)}. Give more pairs that are not in training, or take fewer canaries"
        )
    drawn = held_out.take(rows)
    return Canaries(
        kind=SWAPPED_KIND,
        ids=ids,
        records=Preferences(drawn.prompts, drawn.rejected, drawn.chosen, tools=drawn.tools),
        secrets=tuple(map(answer_text, drawn.rejected)),
        source_rows=tuple(rows),
    )


def answer_text(answer: str | list[Message]) -> str:
    """Returns an answer as one text; messages are joined by line breaks."""
    return answer if isinstance(answer, str) else "\n".join(map(message_text, answer))
