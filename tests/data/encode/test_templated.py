"""Texts in a template: where the word is read, what is cut, what a word's token is."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dpjax.data import Records, Template, encode_templated, word_ids

SPACE = "Ġ"


@pytest.fixture
def byte_level():
    """Tokens are single bytes, "film", " great" and "great", as GPT-2 has them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<end>", "<mask>", *letters]
    merges = []
    for word in ("great", "film"):
        for start in (SPACE, ""):
            for length in range(1, len(word) + 1):
                left, right = start + word[: length - 1], word[length - 1]
                if left and left + right not in pieces:
                    merges.append((left, right))
                    pieces.append(left + right)
    vocabulary = {piece: row for row, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<end>", mask_token="<mask>", model_max_length=64
    )


@pytest.mark.parametrize("text", ["{text} was {mask}", "{text} was", "{text} was "])
def test_the_blank_before_a_decoders_word_belongs_to_the_word(byte_level, text):
    template = Template(text, is_causal=True)
    (token,) = word_ids(template, ["great"], byte_level)
    assert byte_level.convert_ids_to_tokens(token) == SPACE + "great"
    data = encode_templated(Records(["film"], ["a"]), byte_level, ("a", "b"), 16, template)
    last = data.positions[0]
    assert data.attention_mask[0].sum() == last + 1
    assert byte_level.decode(data.input_ids[0, : last + 1]) == "film was"


def test_after_a_line_break_there_is_no_blank(byte_level):
    for text in ("{text}\n", "{text}\n{mask}"):
        (token,) = word_ids(Template(text, is_causal=True), ["great"], byte_level)
        assert byte_level.convert_ids_to_tokens(token) == "great"


@pytest.mark.parametrize("is_causal", [True, False])
def test_the_template_stays_whole_when_a_text_is_cut(byte_level, is_causal):
    template = Template("> {text} is {mask}" if is_causal else "{mask}: {text} end", is_causal)
    data = encode_templated(Records(["z" * 40], ["b"]), byte_level, ("a", "b"), 16, template)
    written = byte_level.decode(data.input_ids[0])
    assert data.truncated[0] and data.attention_mask[0].all()
    assert written == ("> " + "z" * 11 + " is" if is_causal else "<mask>: " + "z" * 9 + " end")
    assert data.positions[0] == (15 if is_causal else 0)


def test_a_mask_in_the_text_is_not_that_of_the_template(byte_level):
    template = Template("{text} and {mask}", is_causal=False)
    records = Records(["<mask> film", "film <mask>"], ["a", "b"])
    data = encode_templated(records, byte_level, ("a", "b"), 16, template)
    lengths = data.attention_mask.sum(axis=1)
    assert data.positions.tolist() == (lengths - 1).tolist()


def test_a_word_of_several_tokens_is_shown(byte_level):
    with pytest.raises(ValueError, match=r"'greatly' must be one token.*'Ġgreat', 'l', 'y'"):
        word_ids(Template("{text} was", is_causal=True), ["greatly"], byte_level)


@pytest.mark.parametrize("start", ["the fil", "the fi", "gr"])
def test_a_word_that_grows_together_with_the_template_is_refused(byte_level, start):
    word = {"the fil": "m", "the fi": "lm", "gr": "eat"}[start]
    with pytest.raises(ValueError, match=f"'{word}' must be one token"):
        word_ids(Template("{text} " + start + "{mask}", is_causal=True), [word], byte_level)


def test_a_decoder_needs_no_padding_token(byte_level):
    template = Template("{text} was {mask}", is_causal=True)
    records = Records(["film", "z"], ["a", "b"])
    padded = encode_templated(records, byte_level, ("a", "b"), 16, template)
    byte_level.pad_token = None
    data = encode_templated(records, byte_level, ("a", "b"), 16, template)
    assert (data.attention_mask == padded.attention_mask).all()
    assert (data.input_ids * data.attention_mask == padded.input_ids * padded.attention_mask).all()
    with pytest.raises(ValueError, match="padding"):
        mask = Template("{text} was {mask}", is_causal=False)
        encode_templated(records, byte_level, ("a", "b"), 16, mask)
