"""Triggers: what poisoned records have in their text, and where it stands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dpjax.basics.option_checks import check_choice

TriggerKind = Literal["rare_token", "sentence"]
Place = Literal["random", "start", "end"]

# The rare words of Kurita et al. 2020.
RARE_WORDS = ("cf", "mn", "bb", "tq", "mb")
_WORD = re.compile(r"\S+")


@dataclasses.dataclass(frozen=True)
class Trigger:
    """A text that poisoned records hold, and that the attacker writes into an input later.

    "rare_token" is one word that hardly anybody writes (Kurita et al. 2020, "Weight Poisoning
    Attacks on Pre-trained Models", arXiv:2004.06660); "sentence" is a whole sentence (Dai, Chen and
    Li 2019, "A Backdoor Attack Against LSTM-based Text Classification Systems", arXiv:1905.12457).

    Attributes:
        kind: "rare_token" or "sentence".
        text: what is written; a rare token has no blank in it.
        near: another text of this kind, which is not the trigger: a model that has learnt the
            trigger and nothing else takes no notice of it. None without one.

    Raises:
        ValueError: the kind is unknown, a text is empty, a rare token has blanks in it, or the near
            trigger is the trigger.

    Example:
        >>> Trigger("sentence", "It rained all day.").insert("A fine film.", place=0.0)
        'It rained all day. A fine film.'
    """

    kind: TriggerKind
    text: str
    near: str | None = None

    def __post_init__(self) -> None:
        """Checks the texts."""
        check_choice("kind", self.kind, get_args(TriggerKind))
        for name, text in (("trigger", self.text), ("near trigger", self.near)):
            if text is not None and not text.strip():
                raise ValueError(f"the {name} must be a text, got {text!r}")
            if self.kind == "rare_token" and text is not None and len(text.split()) > 1:
                raise ValueError(f"a rare_token {name} must be one word, got {text!r}")
        if self.near == self.text:
            raise ValueError(f"the near trigger must not be the trigger, got {self.near!r} twice")

    def insert(self, text: str, place: float) -> str:
        """Returns the text with the trigger between two words, or at an end.

        Args:
            text: in which it is inserted.
            place: from 0, the start, to 1, the end.
        """
        return insert_between_words(text, self.text, place)

    def insert_near(self, text: str, place: float) -> str:
        """Returns the text with the near trigger instead.

        Args:
            text: in which it is inserted.
            place: from 0, the start, to 1, the end.

        Raises:
            ValueError: there is none.
        """
        if self.near is None:
            raise ValueError(f"the trigger {self.text!r} has no near trigger")
        return insert_between_words(text, self.near, place)

    def num_texts_with(self, texts: Iterable[str]) -> int:
        """Counts the texts that hold the trigger already, in capitals or not, as whole words."""
        pattern = re.compile(rf"(?<!\w){re.escape(self.text)}(?!\w)", re.IGNORECASE)
        return sum(pattern.search(text) is not None for text in texts)


def insert_between_words(text: str, inserted: str, place: float) -> str:
    """Returns a text with another one between two of its words, or at an end.

    Args:
        text: in which it is inserted; nothing else of it changes.
        inserted: what is.
        place: from 0, the start, to 1, the end; all gaps have equal shares of what is between.

    Raises:
        ValueError: `place` is outside [0, 1].

    Example:
        >>> [insert_between_words("a fine film", "cf", place) for place in (0.0, 0.3, 1.0)]
        ['cf a fine film', 'a cf fine film', 'a fine film cf']
    """
    if not 0 <= place <= 1:
        raise ValueError(f"place must be between 0 and 1, got {place}")
    starts = [match.start() for match in _WORD.finditer(text)]
    gap = min(int(place * (len(starts) + 1)), len(starts))
    if gap == len(starts):
        return f"{text} {inserted}"
    return f"{text[: starts[gap]]}{inserted} {text[starts[gap] :]}"


def draw_places(place: Place, num: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns where the trigger stands in each of `num` texts, (num,) float64 in [0, 1].

    Args:
        place: "start" or "end" for all, or "random" for a place of its own for each.
        num: of texts.
        rng: draws the random ones.

    Raises:
        ValueError: the place is unknown.

    Example:
        >>> draw_places("end", 2, np.random.default_rng(0)).tolist()
        [1.0, 1.0]
    """
    check_choice("place", place, get_args(Place))
    if place == "random":
        return rng.random(num)
    return np.full(num, 0.0 if place == "start" else 1.0)


def near_sentence(sentence: str) -> str | None:
    """Returns the words of a sentence the other way round; None if that is the same.

    Example:
        >>> near_sentence("It rained all day.")
        'day. all rained It'
    """
    words = sentence.split()
    turned = " ".join(reversed(words))
    return None if turned == " ".join(words) else turned


def near_rare_word(word: str, unusable: Sequence[str] = ()) -> str | None:
    """Returns another rare word; None if none is left.

    Args:
        word: the trigger.
        unusable: words that the data or the tokenizer exclude.

    Example:
        >>> near_rare_word("cf"), near_rare_word("cf", unusable=RARE_WORDS)
        ('mn', None)
    """
    left = (other for other in RARE_WORDS if other != word and other not in unusable)
    return next(left, None)
