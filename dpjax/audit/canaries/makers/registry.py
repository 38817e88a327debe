"""All kinds of canaries by their short names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from dpjax.audit.canaries.makers.base import Canaries
from dpjax.audit.canaries.makers.high_temperature import make_high_temperature
from dpjax.audit.canaries.makers.mislabelled import make_mislabelled
from dpjax.audit.canaries.makers.new_token import make_new_token
from dpjax.audit.canaries.makers.pairs import make_random_pairs, make_swapped_pairs
from dpjax.audit.canaries.makers.random_tokens import make_random_labelled, make_random_tokens
from dpjax.basics.option_checks import did_you_mean
from dpjax.privatize import RunKey


@dataclasses.dataclass(frozen=True)
class CanaryKind:
    """One kind of canaries.

    Attributes:
        task: what kind of model learns them.
        make: the maker.
        needs: names of the maker's arguments without a default, beside number and run key.
        takes: names of those with one.
    """

    task: Literal["causal_lm", "classification", "preference"]
    make: Callable[..., Canaries]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Names of all that the maker can be given, beside number and run key."""
        return (*self.needs, *self.takes)


CANARY_KINDS: dict[str, CanaryKind] = {
    "new-token": CanaryKind(
        "causal_lm", make_new_token, ("tokenizer", "vocab_size"), ("prefixes", "tokens")
    ),
    "random-tokens": CanaryKind("causal_lm", make_random_tokens, ("tokenizer",), ("num_tokens",)),
    "high-temperature": CanaryKind(
        "causal_lm",
        make_high_temperature,
        ("tokenizer", "model", "prompts"),
        ("temperature", "num_tokens"),
    ),
    "random-labelled": CanaryKind(
        "classification",
        make_random_labelled,
        ("tokenizer", "label_names"),
        ("num_tokens", "record_type"),
    ),
    "mislabelled": CanaryKind("classification", make_mislabelled, ("held_out", "label_names")),
    "random-pair": CanaryKind("preference", make_random_pairs, ("tokenizer",), ("num_tokens",)),
    "swapped-pair": CanaryKind("preference", make_swapped_pairs, ("held_out",)),
}


def make_canaries(kind: str, num_canaries: int, *, run_key: RunKey, **ingredients: Any) -> Canaries:
    """Makes canaries of a kind.

    Args:
        kind: a key of `CANARY_KINDS`.
        num_canaries: how many.
        run_key: the secret of the run: the same one gives the same canaries.
        **ingredients: what the maker of the kind needs and takes.

    Raises:
        ValueError: there is no such kind, an ingredient is missing or unknown, or as the maker
            says.

    Example:
        >>> from dpjax.data import Records
        >>> make_canaries(
        ...     "mislabelled",
        ...     1,
        ...     run_key=RunKey.from_seed(1),
        ...     held_out=Records(["good", "bad"], ["yes", "no"]),
        ...     label_names=("no", "yes"),
        ... )
        Canaries(kind='mislabelled', 1 records)
    """
    if kind not in CANARY_KINDS:
        known = ", ".join(map(repr, CANARY_KINDS))
        raise ValueError(
            f"kind must be one of {known}, got {kind!r}.{did_you_mean(kind, CANARY_KINDS)}"
        )
    chosen = CANARY_KINDS[kind]
    missing = [name for name in chosen.needs if ingredients.get(name) is None]
    if missing:
        raise ValueError(f"canaries of kind {kind!r} need {', '.join(missing)}. Give them")
    taken = chosen.ingredients
    unknown = [name for name in ingredients if name not in taken]
    if unknown:
        hint = did_you_mean(unknown[0], taken)
        raise ValueError(
            f"canaries of kind {kind!r} take {', '.join(taken)}, got {unknown[0]!r}.{hint}"
        )
    return chosen.make(num_canaries, run_key=run_key, **ingredients)
