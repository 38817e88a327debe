"""Templates with tokenizers of other kinds: where blanks belong to words, and where to the mask."""

import numpy as np
import pytest

from dpjax.data import Records, Template, encode_templated, word_ids
from tests.support.mask_tokenizers import byte_level, sentence_piece_decoder, unigram

WORDS = ("Ġgreat", "great", "Ġwas", "Ġfilm", "film")
PIECES = ("▁great", "great", "▁was", "▁film", "▁It", "▁x", "▁.", "ful")
# Blanks alone, line breaks, letters of several bytes, and a mask that is no part of the template.
TEXTS = ["film", "  film \n\n  a  \t b ", "é<mask> film", "a a a a a a", "   "]


def word_of(template, is_causal, word, tokenizer):
    (token,) = word_ids(Template(template, is_causal), [word], tokenizer)
    return tokenizer.convert_ids_to_tokens(token)


@pytest.mark.parametrize(
    ("template", "of_bytes", "of_pieces"),
    [
        ("{text} was {mask}.", "Ġgreat", "▁great"),
        ("{mask}: {text}", "great", "▁great"),
        ("{text} was{mask}", "great", "great"),
        ("({mask}) {text}", "great", None),
    ],
)
def test_the_blank_before_a_mask_is_a_part_of_the_word(template, of_bytes, of_pieces):
    assert word_of(template, False, "great", byte_level(WORDS)) == of_bytes
    assert word_of(template, False, "great", byte_level(WORDS, trim_offsets=False)) == of_bytes
    if of_pieces is not None:
        assert word_of(template, False, "great", unigram(PIECES)) == of_pieces


@pytest.mark.parametrize("template", ["{text} was {mask}", "{text} was", "{text} was\n{mask}"])
def test_words_of_decoders(template):
    is_line = "\n" in template
    of_bytes, of_pieces = ("great", "great") if is_line else ("Ġgreat", "▁great")
    for opens in (True, False):
        assert word_of(template, True, "great", byte_level(WORDS, opens=opens)) == of_bytes
    assert word_of(template, True, "great", sentence_piece_decoder(PIECES)) == of_pieces


def test_a_word_whose_blank_is_a_token_of_its_own_is_refused():
    """The mask takes in the blank: the model would say the word without it."""
    tokenizer = byte_level(("great", "Ġwas"))
    with pytest.raises(ValueError, match=r"must be one token .* makes \['Ġ', 'great'\] of it"):
        word_of("{text} was {mask}", False, "great", tokenizer)
    assert word_of("{text} was{mask}", False, "great", tokenizer) == "great"


def test_the_nearest_word_is_named():
    tokenizer, pieces = byte_level(("Ġgreat", "Ġwas")), unigram(PIECES)
    with pytest.raises(ValueError, match=r"makes \['▁', 'G', .*Did you mean 'great'\?"):
        word_of("{text} was {mask}.", False, "Great", pieces)
    with pytest.raises(ValueError, match=r"\['▁great', 'ful'\] of it\. Take another word"):
        word_of("{text} was {mask}.", False, "greatful", pieces)
    with pytest.raises(ValueError, match=r"one after a blank: give head\.template='{text}: {mask}"):
        word_of("{text}:{mask}", False, "great", tokenizer)
    with pytest.raises(ValueError, match=r"<unk>.* Take another word, or change"):
        word_of("{text} was {mask}.", False, "好", pieces)


@pytest.mark.parametrize("template", ["{text} was {mask}.", "{mask}: {text}", "x {text} {mask}"])
@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_tokens_are_those_of_the_whole_text_with_a_mask(template, kind):
    tokenizer = byte_level(WORDS) if kind == "bytes" else unigram(PIECES)
    made = Template(template, is_causal=False)
    data = encode_templated(Records(TEXTS, ["a"] * 5), tokenizer, ("a", "b"), 48, made)
    assert not data.truncated.any()
    for row, text in enumerate(TEXTS):
        whole = template.replace("{text}", text).replace("{mask}", tokenizer.mask_token)
        expected = tokenizer(whole)["input_ids"]
        assert data.input_ids[row, data.attention_mask[row]].tolist() == expected
        places = [at for at, token in enumerate(expected) if token == tokenizer.mask_token_id]
        assert data.positions[row] == places[0 if template.startswith("{mask}") else -1]


def test_blanks_of_a_text_are_cut_like_its_words():
    """Such tokens have no characters of their own where offsets are trimmed, as RoBERTa's are."""
    template = Template("{text} was {mask}", is_causal=False)
    records = Records(["a b c d\n\n\n\n e f g h " * 3, "\n" * 40], ["a", "b"])
    rows = []
    for trim_offsets in (True, False):
        tokenizer = byte_level(WORDS, trim_offsets=trim_offsets)
        data = encode_templated(records, tokenizer, ("a", "b"), 16, template)
        assert data.truncated.all() and data.attention_mask.all()
        rows.append(data.input_ids)
        written = tokenizer.decode(data.input_ids[0], clean_up_tokenization_spaces=False)
        assert written == "<s>a b c d\n\n\n\n  was<mask></s>"
    np.testing.assert_array_equal(*rows)


def test_a_text_without_a_token_fits_or_is_refused_in_words():
    template = Template("{text} was {mask}" + "." * 20, is_causal=False)
    with pytest.raises(ValueError, match="no text would be left"):
        encode_templated(Records([" "], ["a"]), unigram(PIECES), ("a", "b"), 16, template)
    nothing_opens = byte_level(WORDS, opens=False)
    nothing_opens.backend_tokenizer.normalizer = _without_blanks()
    template = Template("{text}", is_causal=True)
    data = encode_templated(Records([" "], ["a"]), nothing_opens, ("a", "b"), 16, template)
    assert data.positions.tolist() == [0] and not data.attention_mask.any()


def _without_blanks():
    from tokenizers import normalizers

    return normalizers.Replace(" ", "")
