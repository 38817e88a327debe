"""Why an audit must not start: each check returns sentences, none if nothing is wrong.

The sentences name ids, never what a record holds.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from dpjax.audit.canaries.coins import Audited
from dpjax.audit.canaries.makers.base import Canaries
from dpjax.audit.canaries.makers.pairs import answer_text
from dpjax.audit.canaries.makers.unused_tokens import canary_tokenizer, rows_of_tokens
from dpjax.audit.verdicts.power import canaries_needed
from dpjax.data import (
    Completions,
    EncodedRecords,
    LanguageDataset,
    Preferences,
    Records,
    TaggedWords,
    Texts,
    is_learnt,
    message_text,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_SHARE = 0.01
_CANNOT_START = "the audit cannot start"


def find_count_problems(
    num_canaries: int,
    *,
    claimed_epsilon: float | None,
    delta: float,
    confidence: float = 0.95,
    audited: Audited = "canaries",
) -> tuple[str, ...]:
    """Finds out whether so few canaries, or records that coins split, could certify anything.

    Args:
        num_canaries: how many fair coins are flipped.
        claimed_epsilon: ε that the accountant claims; None for training without privacy.
        delta: δ of the claim, in (0, 1).
        confidence: of the bound.
        audited: what the coins are flipped for.

    Returns:
        at most one sentence, which says how many are needed.

    Raises:
        ValueError: as for `dpjax.audit.canaries_needed`, also if no number is enough.

    Example:
        >>> find_count_problems(20, claimed_epsilon=4.0, delta=1e-5)
        ('20 canaries are too few to certify anything at ε = 4; 30 or more are needed',)
    """
    needed = canaries_needed(claimed_epsilon=claimed_epsilon, delta=delta, confidence=confidence)
    if num_canaries >= needed:
        return ()
    claim = "without privacy" if claimed_epsilon is None else f"at ε = {claimed_epsilon:g}"
    return (
        f"{num_canaries} {audited} are too few to certify anything {claim}; {needed} or more are "
        "needed",
    )


def find_secret_problems(
    canaries: Canaries, encoded: EncodedRecords, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, ...]:
    """Finds canaries whose secret would not be learnt: cut off, in the prompt, or taken apart.

    A language model's canary that is cut at all counts as cut in its secret, which stands at its
    end. Of a pair the order is learnt, also where its texts are cut, as long as they differ.

    Args:
        canaries: N of them.
        encoded: the N rows that training would use, from `encode_canaries`.
        tokenizer: the checkpoint's.

    Returns:
        a sentence for each kind of problem.
    """
    _check_rows(canaries, encoded)
    bad: dict[str, list[str]] = {}
    learnt = _learnt_texts(canaries)
    rows = zip(canaries.ids, canaries.secrets, learnt, strict=True)
    for name, secret, text in rows:
        if not secret or secret not in text:
            bad.setdefault("the secret is not on the side to be learnt", []).append(name)
    if isinstance(encoded, LanguageDataset):
        for name, is_cut, is_empty in zip(
            canaries.ids, encoded.truncated, encoded.without_targets, strict=True
        ):
            if is_cut and not isinstance(canaries.records, Preferences):
                problem = "max_length cuts off the secret"
                bad.setdefault(problem, []).append(name)
            elif is_empty:
                bad.setdefault("there is no token to be learnt", []).append(name)
        if canaries.new_tokens:
            known = canary_tokenizer(tokenizer, canaries.new_tokens)
            wanted = rows_of_tokens(known, canaries.secrets)
            targets = zip(canaries.ids, encoded.input_ids, encoded.loss_mask, wanted, strict=True)
            for name, ids, mask, token in targets:
                if mask.any() and ids[mask].tolist() != [token]:
                    bad.setdefault("the targets are not the secret token alone", []).append(name)
    return tuple(_sentence(canaries, names, problem) for problem, names in bad.items())


def find_share_problems(
    encoded: EncodedRecords,
    training: EncodedRecords,
    *,
    probability_in: float = 0.5,
    most_share: float = MOST_SHARE,
) -> tuple[str, ...]:
    """Finds out whether canaries would be too much of what the model learns from.

    The share is that of the tokens, of prompts and answers together: those of canaries times the
    probability that they are in, over the same plus those of the training records. Nothing
    depends on a coin.

    Args:
        encoded: the canaries.
        training: the training records without canaries.
        probability_in: that a coin says "in".
        most_share: what is allowed; above 0.01 only where somebody asks for it.

    Returns:
        at most one sentence.

    Raises:
        ValueError: `most_share` is not above 0 and at most 1.
    """
    if not 0 < most_share <= 1:
        raise ValueError(f"most_share must be above 0 and at most 1, got {most_share}")
    planted = probability_in * encoded.num_tokens
    total = planted + training.num_tokens
    share = planted / total if total else 0.0
    if share <= most_share:
        return ()
    fitting = math.floor(len(encoded) * most_share / (1 - most_share) * (total - planted) / planted)
    return (
        f"canaries would be {100 * share:.3g} % of the training tokens, more than "
        f"{100 * most_share:.3g} %; {fitting} of this length would fit, or allow a larger share",
    )


def find_repeated_canaries(canaries: Canaries, encoded: EncodedRecords) -> tuple[str, ...]:
    """Finds canaries that a model cannot tell apart, because their tokens are the same.

    Args:
        canaries: N of them.
        encoded: the N rows that training would use.

    Returns:
        at most one sentence.
    """
    _check_rows(canaries, encoded)
    rows = list(encoded.contents())
    counts = Counter(rows)
    same = [name for name, row in zip(canaries.ids, rows, strict=True) if counts[row] > 1]
    return (_sentence(canaries, same, "the tokens are those of another canary"),) if same else ()


def find_trained_canaries(
    canaries: Canaries, encoded: EncodedRecords, training: EncodedRecords
) -> tuple[str, ...]:
    """Finds canaries whose tokens are those of a training record, whatever the labels.

    Training would see such a canary whichever way its coin falls.

    Args:
        canaries: N of them.
        encoded: the N rows that training would use.
        training: the training records without canaries.

    Returns:
        at most one sentence.
    """
    _check_rows(canaries, encoded)
    trained = set(training.contents())
    rows = zip(canaries.ids, encoded.contents(), strict=True)
    same = [name for name, row in rows if row in trained]
    return (_sentence(canaries, same, "the tokens are those of a training record"),) if same else ()


def check_canaries(
    canaries: Canaries,
    encoded: EncodedRecords,
    training: EncodedRecords,
    tokenizer: PreTrainedTokenizerBase,
    *,
    claimed_epsilon: float | None,
    delta: float,
    confidence: float = 0.95,
    most_share: float = MOST_SHARE,
) -> None:
    """Refuses canaries with any of the problems that the functions above find.

    Args:
        canaries: N of them, with fair coins.
        encoded: the N rows that training would use.
        training: the training records without canaries.
        tokenizer: the checkpoint's.
        claimed_epsilon: as for `find_count_problems`.
        delta: as for `find_count_problems`.
        confidence: as for `find_count_problems`.
        most_share: as for `find_share_problems`.

    Raises:
        ValueError: with all reasons at once.
    """
    problems = (
        *find_count_problems(
            len(canaries), claimed_epsilon=claimed_epsilon, delta=delta, confidence=confidence
        ),
        *find_secret_problems(canaries, encoded, tokenizer),
        *find_share_problems(encoded, training, most_share=most_share),
        *find_repeated_canaries(canaries, encoded),
        *find_trained_canaries(canaries, encoded, training),
    )
    if problems:
        raise ValueError(f"{_CANNOT_START}: {'; '.join(problems)}")


def check_count(
    num_records: int,
    *,
    claimed_epsilon: float | None,
    delta: float,
    confidence: float = 0.95,
    audited: Audited = "canaries",
) -> None:
    """Refuses so few canaries, or records that coins split, that they could certify nothing.

    Args:
        num_records: how many fair coins are flipped.
        claimed_epsilon: as for `find_count_problems`.
        delta: as for `find_count_problems`.
        confidence: as for `find_count_problems`.
        audited: what the coins are flipped for.

    Raises:
        ValueError: says how many are needed.
    """
    for problem in find_count_problems(
        num_records,
        claimed_epsilon=claimed_epsilon,
        delta=delta,
        confidence=confidence,
        audited=audited,
    ):
        raise ValueError(f"{_CANNOT_START}: {problem}")


def _learnt_texts(canaries: Canaries) -> list[str]:
    """Of each canary what a model learns to write, as text."""
    records = canaries.records
    if isinstance(records, Records):
        return records.labels
    if isinstance(records, TaggedWords):
        return list(map(" ".join, records.tags))
    if isinstance(records, Texts):
        return records.texts
    if isinstance(records, Completions):
        return list(map(answer_text, records.completions))
    if isinstance(records, Preferences):
        return list(map(answer_text, records.chosen))
    return [
        "\n".join(map(message_text, filter(is_learnt, messages)))
        for messages in records.conversations
    ]


def _check_rows(canaries: Canaries, encoded: EncodedRecords) -> None:
    if len(canaries) != len(encoded):
        raise ValueError(f"encoded must have {len(canaries)} rows, got {len(encoded)}")


def _sentence(canaries: Canaries, names: list[str], problem: str) -> str:
    shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
    return f"{problem}: {len(names)} of {len(canaries)} canaries ({shown})"
