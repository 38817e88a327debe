"""Made-up messages to a clinic, each with the desk it belongs to: data for a first private run.

Every message carries details of an invented person (a name, a record number, a date of birth, a
telephone number), and a few labels are wrong, as in any office: there is something to memorise.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TypeVar

from dpjax.data import Records
from dpjax.demo.clinic_phrases import (
    ASKS,
    CONTRASTS,
    FILLERS,
    FRAMES,
    MATTERS,
    READINGS,
    SETTLED,
)

LABELS = tuple(ASKS)
WRONG_LABEL_RATE = 0.04
CONTRAST_RATE = 0.15
SETTLED_RATE = 0.25
TYPO_RATE = 0.1
CARELESS_RATE = 0.25

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_CAREFUL_MARKS = re.compile(r"[.,;?]")
_T = TypeVar("_T")


def generate(num_records: int, seed: int) -> Records:
    """`num_records` different messages with labels, independent draws from one distribution.

    A cut at any position is therefore a fair split into training and held-out records. The same
    seed gives the same records everywhere, and the first records do not depend on `num_records`.

    Raises:
        ValueError: `num_records` is negative.
    """
    if num_records < 0:
        raise ValueError(f"num_records must not be negative, got {num_records}")
    draw = _Draw(seed)
    labels: dict[str, str] = {}
    while len(labels) < num_records:
        topic = draw.one_of(LABELS)
        text = _message(draw, topic)
        label = _other_than(draw, topic) if draw.chance(WRONG_LABEL_RATE) else topic
        labels.setdefault(text, label)
    return Records(list(labels), list(labels.values()))


class _Draw:
    """Random choices that are the same in every Python version: only random() is promised to be."""

    def __init__(self, seed: int) -> None:
        self._uniform = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._uniform() < probability

    def number(self, low: int, high: int) -> int:
        return low + int(self._uniform() * (high - low + 1))

    def one_of(self, options: Sequence[_T]) -> _T:
        return options[self.number(0, len(options) - 1)]


def _message(draw: _Draw, topic: str) -> str:
    request = _sentence(_request(draw, topic))
    frame = _expand(draw, draw.one_of(FRAMES))
    text = frame.replace("<request>", request).replace("<Request>", _capitalised(request))
    if draw.chance(TYPO_RATE):
        text = _with_typo(draw, text)
    if draw.chance(CARELESS_RATE):
        text = _CAREFUL_MARKS.sub("", text).lower()
    return text


def _request(draw: _Draw, topic: str) -> str:
    other = _other_than(draw, topic)
    if draw.chance(CONTRAST_RATE):
        contrast = draw.one_of(CONTRASTS)
        wanted, unwanted = draw.one_of(MATTERS[topic]), draw.one_of(MATTERS[other])
        return _expand(draw, contrast.replace("<wanted>", wanted).replace("<other>", unwanted))
    ask = _expand(draw, draw.one_of(ASKS[topic]))
    if draw.chance(SETTLED_RATE):
        settled = _expand(draw, draw.one_of(SETTLED[other]))
        if draw.chance(0.5):
            return f"{settled}, {ask}"
        return f"{_sentence(ask)} {_capitalised(settled)}"
    return ask


def _other_than(draw: _Draw, topic: str) -> str:
    return draw.one_of([name for name in LABELS if name != topic])


def _sentence(words: str) -> str:
    return words if words.endswith("?") else words + "."


def _capitalised(words: str) -> str:
    return words[0].upper() + words[1:]


def _expand(draw: _Draw, template: str) -> str:
    chosen = _ALTERNATIVES.sub(lambda match: draw.one_of(match[1].split("|")), template)
    return _SLOT.sub(lambda match: _detail(draw, match[1]), chosen)


def _detail(draw: _Draw, slot: str) -> str:
    match slot:
        case "person":
            return f"{draw.one_of(FILLERS['first_name'])} {draw.one_of(FILLERS['surname'])}"
        case "record":
            return f"#{draw.number(10000, 99999)}"
        case "policy":
            return f"{draw.one_of('ABCDEFGHKLM')}{draw.number(1000, 9999)}"
        case "phone":
            # 555-0100 to 555-0199 are set aside for fiction.
            return f"555-01{draw.number(0, 99):02d}"
        case "birth":
            return f"{draw.number(1, 28)}/{draw.number(1, 12)}/{draw.number(31, 99)}"
        case "date":
            return f"{draw.number(1, 28)} {draw.one_of(FILLERS['month'])}"
        case "amount":
            return f"${draw.number(12, 480)}"
        case "reading":
            level, low, high = draw.one_of(READINGS)
            return f"{level} {draw.number(low, high)}"
        case _:
            return draw.one_of(FILLERS[slot])


def _with_typo(draw: _Draw, text: str) -> str:
    """Swaps, drops or doubles one letter inside one of the longer words."""
    words = text.split(" ")
    longer = [place for place, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not longer:
        return text
    place = draw.one_of(longer)
    word = words[place]
    at = draw.number(1, len(word) - 3)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    dropped = word[:at] + word[at + 1 :]
    doubled = word[:at] + word[at] + word[at:]
    words[place] = draw.one_of((swapped, dropped, doubled))
    return " ".join(words)
