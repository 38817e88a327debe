"""Texts of tokens drawn uniformly: no model expects them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dpjax.audit.canaries.makers.base import Canaries, canary_rng, number_ids
from dpjax.audit.canaries.makers.unused_tokens import spells_something
from dpjax.data import Records, TaggedWords, Texts
from dpjax.privatize import RunKey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KIND = "random-tokens"
LABELLED_KIND = "random-labelled"
# Draws for one text: half of a vocabulary may be special tokens and parts of characters.
_MOST_DRAWS = 100


def make_random_tokens(
    num_canaries: int,
    *,
    run_key: RunKey,
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int = 32,
) -> Canaries:
    """Makes texts of tokens drawn uniformly and independently from the vocabulary.

    Special tokens, blanks and tokens that are a part of a character are left out. The text is what
    the tokens spell; read again it may have a few tokens more or fewer.

    Args:
        num_canaries: N.
        run_key: the secret of the run, which draws the tokens.
        tokenizer: the checkpoint's.
        num_tokens: tokens drawn for each text, at least 1.

    Returns:
        N canaries with records `Texts`; each whole text is a secret.

    Raises:
        ValueError: a number is not a whole number of at least 1, or the vocabulary has too few
            tokens that spell something.
    """
    ids = number_ids(KIND, num_canaries)
    texts = [random_text(tokenizer, num_tokens, canary_rng(run_key, name)) for name in ids]
    return Canaries(kind=KIND, ids=ids, records=Texts(texts), secrets=tuple(texts))


def make_random_labelled(
    num_canaries: int,
    *,
    run_key: RunKey,
    tokenizer: PreTrainedTokenizerBase,
    label_names: Sequence[str],
    num_tokens: int = 16,
    record_type: type[Records] | type[TaggedWords] = Records,
) -> Canaries:
    """Makes texts of random tokens with a label, or a tag for each word, drawn uniformly.

    Nothing but training on a canary tells its label, and no reserve of real records is needed.

    Args:
        num_canaries: N.
        run_key: the secret of the run, which draws tokens and labels.
        tokenizer: the checkpoint's.
        label_names: all labels, at least two.
        num_tokens: tokens drawn for each text, at least 1.
        record_type: what the canaries are; the words of `TaggedWords` are what stands between the
            blanks of the text.

    Returns:
        N canaries; each label is a secret, or all tags of a text are.

    Raises:
        ValueError: there are fewer than two labels, or as for `make_random_tokens`.
    """
    if len(set(label_names)) < 2:
        raise ValueError(f"label_names must be different labels, two or more, got {label_names!r}")
    ids = number_ids(LABELLED_KIND, num_canaries)
    texts, labels = [], []
    for name in ids:
        rng = canary_rng(run_key, name)
        texts.append(random_text(tokenizer, num_tokens, rng))
        size = len(texts[-1].split()) if record_type is TaggedWords else 1
        labels.append([label_names[int(n)] for n in rng.integers(len(label_names), size=size)])
    secrets = tuple(map(" ".join, labels))
    records: Records | TaggedWords = Records(texts, list(secrets))
    if record_type is TaggedWords:
        records = TaggedWords([text.split() for text in texts], labels)
    return Canaries(kind=LABELLED_KIND, ids=ids, records=records, secrets=secrets)


def random_text(
    tokenizer: PreTrainedTokenizerBase, num_tokens: int, rng: np.random.Generator
) -> str:
    """Draws a text of `num_tokens` ordinary tokens.

    Args:
        tokenizer: the checkpoint's.
        num_tokens: at least 1.
        rng: draws them, uniformly among those that spell something.

    Raises:
        ValueError: as for `make_random_tokens`.
    """
    if not isinstance(num_tokens, int) or num_tokens < 1:
        raise ValueError(f"num_tokens must be a whole number of at least 1, got {num_tokens!r}")
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    chosen: list[int] = []
    for _ in range(_MOST_DRAWS):
        for token in rng.integers(0, len(tokenizer), num_tokens).tolist():
            if token not in special and spells_something(tokenizer, token):
                chosen.append(token)
            if len(chosen) == num_tokens:
                return str(tokenizer.decode(chosen)).strip()
    raise ValueError(
        f"random text needs tokens that spell something, got {len(chosen)} in "
        f"{_MOST_DRAWS * num_tokens} draws from the tokenizer. Take another kind of canary"
    )
