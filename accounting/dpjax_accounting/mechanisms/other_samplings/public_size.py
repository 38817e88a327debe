"""What mechanisms have in common that only hold where the number of units is public."""

from __future__ import annotations

from typing import ClassVar

from dpjax_accounting.mechanisms.mechanism import Mechanism


class PublicSize(Mechanism):
    """A mechanism whose number of units is public: neighbouring data sets have equally many.

    Each kind says in `refused_relations` why no unit may be added or removed.
    """

    relations: ClassVar[tuple[str, ...]] = ("zero_out", "replace_one")
