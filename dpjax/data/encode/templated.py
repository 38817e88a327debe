"""Texts inside a template, where a language model says a word for the label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dpjax.data.encode.labelled import TextDataset, label_ids
from dpjax.data.encode.tokenizing import (
    TEXTS_AT_ONCE,
    check_max_length,
    check_padding_token,
    check_tokenizer,
    leading_special_tokens,
    tokenize_with_offsets,
)
from dpjax.data.records.labelled import Records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT, MASK = "{text}", "{mask}"


@dataclasses.dataclass(frozen=True, eq=False)
class TemplatedDataset(TextDataset):
    """Labelled texts inside a template.

    Example:
        >>> ids, one = np.array([[5, 6, 7]], np.int32), np.zeros(1, np.int32)
        >>> data = TemplatedDataset(ids, ids > 0, np.zeros(1, bool), labels=one, positions=one + 2)
        >>> data.take([0, 0]).positions.tolist()
        [2, 2]
    """

    positions: np.ndarray
    """(N,) int32, the token at which the word of the label is read."""


@dataclasses.dataclass(frozen=True)
class Template:
    """A template for one kind of model.

    An encoder reads the word at the place of `{mask}`. A decoder reads it after the end: `{mask}`
    may stand there. Blanks before it are a part of the word, since the tokens of most vocabularies
    begin with them; without `{mask}` one blank is, except after a line break.

    Args:
        text: has `{text}` once, and `{mask}` at most once.
        is_causal: whether it is for a decoder.

    Raises:
        ValueError: `{text}` or `{mask}` is not where it must be.

    Example:
        >>> template = Template("{text} It was {mask}", is_causal=True)
        >>> template.start, template.end, template.blank
        ('', ' It was', ' ')
    """

    text: str
    is_causal: bool

    def __post_init__(self) -> None:
        check_template(self.text)
        if self.is_causal and MASK in self.text and not self.text.endswith(MASK):
            raise ValueError(
                f"head.template of a decoder must end with {MASK}, for a decoder reads nothing "
                f"after the word, got {self.text!r}. Leave out what follows"
            )
        if not self.is_causal and MASK not in self.text:
            raise ValueError(
                f"head.template of an encoder must have {MASK} where the word of the label is, got "
                f"{self.text!r}"
            )

    @property
    def start(self) -> str:
        """What stands before the text; its `{mask}` stays."""
        return self.text.partition(TEXT)[0]

    @property
    def end(self) -> str:
        """What stands after the text; of a decoder without the blanks that belong to the word."""
        end = self.text.partition(TEXT)[2]
        return end.removesuffix(MASK).rstrip(" ") if self.is_causal else end

    @property
    def blank(self) -> str:
        """What a decoder's word begins with."""
        end = self.text.removesuffix(MASK)
        blank = end[len(end.rstrip(" ")) :]
        is_open = MASK not in self.text and not blank and not end.endswith("\n")
        return " " if is_open else blank


def check_template(text: str) -> None:
    """Raises ValueError unless `{text}` occurs once and `{mask}` at most once.

    Example:
        >>> check_template("{text} It was {mask}.")
    """
    if text.count(TEXT) != 1 or text.count(MASK) > 1:
        raise ValueError(
            f"head.template must have {TEXT} once and {MASK} at most once, got {text!r}. An "
            f'example is "{TEXT} It was {MASK}."'
        )


def word_ids(
    template: Template, words: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Returns the token of each word as it stands in the template.

    Raises:
        ValueError: a word is not exactly one token there; the message shows which it is.

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))))
        >>> word_ids(Template("{text} {mask} film", is_causal=False), ["fine"], tokenizer)
        [6]
    """
    found = []
    for word in words:
        tokens, is_whole = _tokens_of_word(template, word, tokenizer)
        if not is_whole:
            shown = tokenizer.convert_ids_to_tokens(tokens)
            raise ValueError(
                f"head.label_words: {word!r} must be one token of the model's vocabulary where the "
                f"template has it, and the tokenizer makes {shown} of it. "
                + _advice(template, word, tokenizer)
            )
        found += tokens
    return found


def tokens_of_words(
    template: Template,
    labels: Sequence[str],
    words: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[tuple[int, ...], ...]:
    """Returns the tokens of the words of each label, in the order of the labels.

    Raises:
        ValueError: as for `word_ids`, or a token stands for two words.

    Example:
        >>> from transformers import BertTokenizer
        >>> listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bad", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(listed, range(8))))
        >>> template = Template("{text} {mask} film", is_causal=False)
        >>> words = {"yes": ("fine",), "no": ("bad",)}
        >>> tokens_of_words(template, ("no", "yes"), words, tokenizer)
        ((5,), (6,))
    """
    rows = tuple(tuple(word_ids(template, words[label], tokenizer)) for label in labels)
    label_of: dict[int, str] = {}
    for label, tokens in zip(labels, rows, strict=True):
        for token in tokens:
            if token in label_of:
                who = " and ".join(map(repr, dict.fromkeys((label_of[token], label))))
                raise ValueError(
                    f"head.label_words: {who} must have other tokens, got "
                    f"{tokenizer.convert_ids_to_tokens(token)!r} twice: give each word once"
                )
            label_of[token] = label
    return rows


def _tokens_of_word(
    template: Template, word: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], bool]:
    """The tokens that a word has a part in, and whether it is one token that the model can say.

    It can where the tokens before are those that it reads: a blank that the mask token takes in
    is a part of the word, and a token that begins in the template is not.
    """
    if template.is_causal:
        before = template.start + "x" + template.end
        whole, start = before + template.blank + word, len(before)
    else:
        mask = _mask_token(tokenizer)
        masked = template.start.replace(MASK, mask) + "x" + template.end.replace(MASK, mask)
        start = _mask_start(template, 1)
        before, whole = masked, masked[:start] + word + masked[start + len(mask) :]
    end = start + len(word) + len(template.blank if template.is_causal else "")
    (read, places), (ids, offsets) = tokenize_with_offsets(tokenizer, [before, whole])
    num_read = len(read) if template.is_causal else _mask_place(tokenizer, read, places, start)
    inside = [
        number
        for number, (a, b) in enumerate(offsets)
        if (b > start and a < end) or (num_read <= number and b <= start)
    ]
    tokens = [ids[number] for number in inside]
    is_whole = (
        inside == [num_read]
        and ids[:num_read] == read[:num_read]
        and offsets[num_read][1] == end
        and tokens != [tokenizer.unk_token_id]
        and (not template.is_causal or len(ids) == num_read + 1)
    )
    return tokens, is_whole


def _advice(template: Template, word: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What to do about a word that is not one token: the nearest that is, where there is one."""
    for near in (word.lower(), word.capitalize(), word.upper()):
        if near != word and _tokens_of_word(template, near, tokenizer)[1]:
            return f"Did you mean {near!r}?"
    if MASK in template.text:
        spaced = dataclasses.replace(template, text=template.text.replace(MASK, f" {MASK}"))
        if _tokens_of_word(spaced, word, tokenizer)[1]:
            return f"It is one after a blank: give head.template={spaced.text!r}, or another word"
    return "Take another word, or change what stands before it in the template"


def encode_templated(
    records: Records,
    tokenizer: PreTrainedTokenizerBase,
    label_names: tuple[str, ...],
    max_length: int,
    template: Template,
) -> TemplatedDataset:
    """Tokenises every text inside the template, with the special tokens of the tokenizer.

    A text that is too long is cut at its end: all tokens of the template stay. A decoder gets no
    token that ends a text, for the word follows.

    Raises:
        TypeError: the tokenizer is not a fast one.
        ValueError: as for `encode_labelled`; or the template fills `max_length` tokens, or the
            tokenizer has no mask token where one is needed.

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))))
        >>> records = Records(["a fine film", "a fine film a film"], labels=["1", "0"])
        >>> template = Template("{text} {mask} film", is_causal=False)
        >>> data = encode_templated(records, tokenizer, ("0", "1"), 8, template)
        >>> data.input_ids.tolist()
        [[2, 5, 6, 7, 4, 7, 3, 0], [2, 5, 6, 7, 5, 4, 7, 3]]
        >>> data.positions.tolist(), data.truncated.tolist()
        ([4, 5], [False, True])
    """
    check_tokenizer(tokenizer)
    if not template.is_causal:
        check_padding_token(tokenizer)
    check_max_length(max_length, tokenizer)
    # Of a decoder no one reads what stands at padding: any token will do.
    padding = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    mask = "" if template.is_causal else _mask_token(tokenizer)
    start, end = template.start.replace(MASK, mask), template.end.replace(MASK, mask)
    opening = leading_special_tokens(tokenizer)
    closing = [] if template.is_causal else _closing(tokenizer)
    shape = (len(records), max_length)
    ids, is_token = np.full(shape, padding, np.int32), np.zeros(shape, bool)
    truncated, positions = np.zeros(len(records), bool), np.zeros(len(records), np.int32)
    for first in range(0, len(records), TEXTS_AT_ONCE):
        texts = records.texts[first : first + TEXTS_AT_ONCE]
        encoded = tokenize_with_offsets(tokenizer, [start + text + end for text in texts])
        for row, (text, (tokens, offsets)) in enumerate(zip(texts, encoded, strict=True), first):
            inside = len(start), len(start) + len(text)
            room = max_length - len(opening) - len(closing)
            kept = _kept(offsets, inside, room)
            truncated[row] = len(kept) < len(tokens)
            whole = [*opening, *(tokens[place] for place in kept), *closing]
            ids[row, : len(whole)], is_token[row, : len(whole)] = whole, True
            place = len(kept) - 1
            if not template.is_causal:
                mask_start = _mask_start(template, len(text))
                place = kept.index(_mask_place(tokenizer, tokens, offsets, mask_start))
            # A text without a token, which nothing opens, is read where its padding is.
            positions[row] = max(len(opening) + place, 0)
    labels = label_ids(records.labels, label_names)
    return TemplatedDataset(ids, is_token, truncated, labels, positions)


def _kept(offsets: list[tuple[int, int]], inside: tuple[int, int], room: int) -> list[int]:
    """The places of the tokens that fit: all of the template, and the first of the text."""
    # Tokens of blanks alone may have no length, and stand where the blanks end.
    is_text = [
        inside[0] < b <= inside[1] if a == b else inside[0] <= a and b <= inside[1]
        for a, b in offsets
    ]
    num_text = room - (len(offsets) - sum(is_text))
    if num_text < min(1, sum(is_text)):
        raise ValueError(
            f"training.max_length leaves {room} tokens beside special ones, and head.template has "
            f"{len(offsets) - sum(is_text)}: no text would be left. Give a greater one"
        )
    seen = np.cumsum(is_text)
    return [
        place for place, of_text in enumerate(is_text) if not of_text or seen[place] <= num_text
    ]


def _mask_start(template: Template, length: int) -> int:
    """The first character of the mask token around a text of some length."""
    before = template.text.partition(MASK)[0]
    return len(before) + (length - len(TEXT) if TEXT in before else 0)


def _mask_place(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], offsets: list[tuple[int, int]], start: int
) -> int:
    """The place of the mask token of the template: a text may write some of its own."""
    return next(
        number
        for number, (token, (a, b)) in enumerate(zip(ids, offsets, strict=True))
        # It may take in blanks.
        if token == tokenizer.mask_token_id and a <= start < b
    )


def _mask_token(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.mask_token is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no mask token, which head.template needs for an "
            "encoder. Take a checkpoint with the tokenizer that it was pretrained with"
        )
    return str(tokenizer.mask_token)


def _closing(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts after every text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    masked = encoded["special_tokens_mask"]
    num_closing = next((n for n, special in enumerate(reversed(masked)) if not special), 0)
    return list(encoded["input_ids"][len(masked) - num_closing :])
