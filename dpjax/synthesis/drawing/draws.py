"""Which texts are drawn, and which of them become records.

Every draw has a place: the number of its condition, and its number within the condition. Key and
prompt depend on the place alone. Draws of a condition are looked at in their order, and those that
are empty or repeat an earlier one are dropped. So the records do not depend on how many are drawn
at once, nor on an interruption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dpjax.synthesis.conditions import Condition


class Place(NamedTuple):
    """Which draw it is: number of the condition, and within it, both from 0."""

    condition: int
    number: int


class Draw(NamedTuple):
    """What the model wrote.

    Attributes:
        text: without special tokens.
        num_tokens: how many tokens it has, its end included.
        has_ended: whether the model ended it; otherwise it was cut at `max_new_tokens`.
    """

    text: str
    num_tokens: int
    has_ended: bool


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What became of the draws so far.

    Attributes:
        records: places of the draws that are records, in the order of the conditions.
        num_empty: how many draws were dropped because nothing but blanks was written.
        num_repeated: how many because an earlier draw of the condition has the same text.
        missing: places to draw next; empty once nothing more is to be drawn.
    """

    records: list[Place]
    num_empty: int
    num_repeated: int
    missing: list[Place]


def choose(conditions: Sequence[Condition], draws: Mapping[Place, Draw], max_tries: int) -> Chosen:
    """Looks at the draws of each condition in their order, up to the first that is missing.

    Args:
        conditions: with the numbers of records wanted.
        draws: those that are done.
        max_tries: a condition of n records gets at most `max_tries` · n draws.
    """
    records: list[Place] = []
    missing: list[Place] = []
    num_empty = num_repeated = 0
    for which, condition in enumerate(conditions):
        seen: set[str] = set()
        limit, number = max_tries * condition.num, 0
        while number < limit and len(seen) < condition.num:
            place = Place(which, number)
            draw = draws.get(place)
            if draw is None:
                # Whatever is written there, as many at least must be looked at.
                ends = min(limit, number + condition.num - len(seen))
                places = (Place(which, each) for each in range(number, ends))
                missing += [each for each in places if each not in draws]
                break
            text = draw.text.strip()
            if not text:
                num_empty += 1
            elif text in seen:
                num_repeated += 1
            else:
                seen.add(text)
                records.append(place)
            number += 1
    return Chosen(records, num_empty, num_repeated, missing)


def interleave(conditions: Sequence[Condition], records: Sequence[Place]) -> list[Place]:
    """Orders records so that any part of the file has the conditions in their proportions."""
    ranks: dict[int, int] = {}
    keyed = []
    for place in records:
        rank = ranks.get(place.condition, 0)
        ranks[place.condition] = rank + 1
        keyed.append(((rank + 0.5) / conditions[place.condition].num, place))
    return [place for _, place in sorted(keyed)]
