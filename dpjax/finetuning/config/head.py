"""The options of what reads a label off the model."""

from __future__ import annotations

import dataclasses

from dpjax.basics.option_checks import CheckedOptions
from dpjax.data import check_template


@dataclasses.dataclass(frozen=True)
class Head(CheckedOptions):
    """What reads a label off the model, and where it starts.

    Example:
        >>> words = ("billing=invoice, charge", "other=question")
        >>> Head(template="{text} It is about {mask}.", label_words=words).words()
        {'billing': ('invoice', 'charge'), 'other': ('question',)}
    """

    template: str | None = None
    """Put each text into this one, which has {text} and, where the answer stands, {mask}, such as
    "{text} It was {mask}."; a decoder answers after the end. With label_words the label is read off
    the model's own language head. Without them, a new classifier reads what a decoder knows before
    it answers: its last token. Default: texts as they are."""
    label_words: tuple[str, ...] = ()
    """What each label is called in words, as "label=word, word"; of all labels or of none. Choose
    them without a look at private records. Without a template a new classifier starts from them:
    its weights of a label are the mean features of its words. With a template and features.layers
    it starts as what the language head says of them."""

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
        if self.template is None:
            return
        check_template(self.template)
