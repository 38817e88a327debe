"""Tokenizers like those of RoBERTa, XLM-RoBERTa and Llama, made small: nothing is downloaded."""

from __future__ import annotations

import string
from itertools import chain

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import PreTrainedTokenizerFast

OPEN, PAD, CLOSE, UNKNOWN, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"


def _whole(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=OPEN,
        eos_token=CLOSE,
        pad_token=PAD,
        unk_token=UNKNOWN,
        # As of both: it takes in the blanks before it.
        mask_token=AddedToken(MASK, lstrip=True, special=True),
        model_max_length=64,
    )


def _pairs(start: list[str], words: tuple[str, ...], **options) -> models.BPE:
    """Byte pairs of which each word becomes one token; those that end like others come first."""
    merges = [(word[:length], word[length]) for word in words for length in range(1, len(word))]
    merges = list(dict.fromkeys(merges))
    pieces = dict.fromkeys(chain(start, map("".join, merges)))
    return models.BPE({piece: row for row, piece in enumerate(pieces)}, merges, **options)


def byte_level(
    words: tuple[str, ...], *, trim_offsets: bool = True, opens: bool = True
) -> PreTrainedTokenizerFast:
    """Like RoBERTa's: a blank, Ġ, begins a token; of GPT-2's kind where nothing opens a text.

    Its words are those given, as tokens. By `trim_offsets` the characters of a token are those
    without its blanks: of a blank alone there are none.
    """
    letters = sorted(pre.ByteLevel.alphabet())
    tokenizer = Tokenizer(_pairs([OPEN, PAD, CLOSE, UNKNOWN, MASK, *letters], words))
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if opens:
        tokenizer.post_processor = RobertaProcessing(
            (CLOSE, 2), (OPEN, 0), trim_offsets=trim_offsets, add_prefix_space=False
        )
    return _whole(tokenizer)


def unigram(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Like XLM-RoBERTa's: SentencePiece, whose words begin with ▁; its pieces are those given."""
    letters = [letter for letter in (*string.ascii_letters, *".,:!", "▁") if letter not in words]
    pieces = [(token, 0.0) for token in (OPEN, PAD, CLOSE, UNKNOWN)]
    pieces += [(word, -3.0) for word in words] + [(letter, -8.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram([*pieces, (MASK, 0.0)], unk_id=3))
    blanks = pre.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), blanks])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{OPEN} $A {CLOSE}", special_tokens=[(OPEN, 0), (CLOSE, 2)]
    )
    return _whole(tokenizer)


def sentence_piece_decoder(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Like Llama 2's: pieces over blanks, a ▁ before the text, and single bytes of the rest."""
    start = [UNKNOWN, OPEN, CLOSE, *(f"<0x{byte:02X}>" for byte in range(256))]
    start += ["▁", *string.ascii_letters, *".,:!"]
    tokenizer = Tokenizer(_pairs(start, words, unk_token=UNKNOWN, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = TemplateProcessing(single=f"{OPEN} $A", special_tokens=[(OPEN, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=OPEN,
        eos_token=CLOSE,
        unk_token=UNKNOWN,
        model_max_length=64,
    )
