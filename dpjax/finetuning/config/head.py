"""The options of what reads a label off the model."""

from __future__ import annotations

import dataclasses

from dpjax.option_checks import CheckedOptions


@dataclasses.dataclass(frozen=True)
class Head(CheckedOptions):
    """What reads a label off the model, and where it starts.

    Example:
        >>> Head(label_words=("billing=invoice, charge", "other=question")).words()
        {'billing': ('invoice', 'charge'), 'other': ('question',)}
    """

    label_words: tuple[str, ...] = ()
    """What each label is called in words, as "label=word, word"; of all labels or of none. They are
    public: nothing of them comes from private records."""

    def words(self) -> dict[str, tuple[str, ...]]:
        """Returns the words of each label, in the order in which they are given."""
        found: dict[str, tuple[str, ...]] = {}
        for item in self.label_words:
            label, equals, listed = item.partition("=")
            words = tuple(word.strip() for word in listed.split(",") if word.strip())
            if not equals or not label.strip() or not words:
                raise ValueError(
                    f"head.label_words has {item!r}: give each label as label=word, or with several"
                    " words as label=word, word"
                )
            if label.strip() in found:
                raise ValueError(
                    f"head.label_words has the label {label.strip()!r} twice: list its words in one"
                    " item, with commas between"
                )
            found[label.strip()] = words
        return found

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        self.words()
