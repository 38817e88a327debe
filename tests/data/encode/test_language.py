"""Which tokens there are and which of them count, with small tokenizers of several kinds."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from dpjax.data import (
    Completions,
    Conversations,
    LanguageDataset,
    Texts,
    by_length,
    encode_language,
    microbatches,
    trim_padding,
)
from tests.support.tiny_tokenizers import END, PLAIN_TEMPLATE

PROMPTS = ["name[Vaults], food[French]", "the film is", "the fi", "a long book, "]
COMPLETIONS = [" Vaults serves French food", " good", "lm is good", "the play is bad"]


def words(tokenizer, row, mask):
    return tokenizer.decode(row[mask])


def one(records, tokenizer, **options):
    """Tokens and targets of one record as text."""
    data = encode_language(records, tokenizer, options.pop("max_length", 64), **options)
    mask = data.attention_mask[0]
    return words(tokenizer, data.input_ids[0], mask), words(
        tokenizer, data.input_ids[0], data.loss_mask[0]
    )


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


CHAT = [user("the book"), assistant("is long"), user("the film"), assistant("is good")]


def test_arrays(gpt):
    data = encode_language(Texts(["the film is good", "bad", "the " * 20]), gpt, 8)
    film, bad = gpt("the film is good")["input_ids"], gpt("bad")["input_ids"]
    end = gpt.eos_token_id
    assert data.input_ids.shape == (3, 8)
    for row, ids in enumerate(([*film, end], [*bad, end], gpt("the " * 20)["input_ids"][:8])):
        np.testing.assert_array_equal(data.input_ids[row, : len(ids)], ids)
        # No padding token: padding is the end token, and masked.
        assert (data.input_ids[row, len(ids) :] == end).all()
        np.testing.assert_array_equal(data.attention_mask[row], np.arange(8) < len(ids))
        expected = (np.arange(8) < len(ids)) & (np.arange(8) > 0)
        np.testing.assert_array_equal(data.loss_mask[row], expected)
    np.testing.assert_array_equal(data.truncated, [False, False, True])
    assert data.input_ids.dtype == np.int32
    assert {data.attention_mask.dtype, data.loss_mask.dtype, data.truncated.dtype} == {
        np.dtype(bool)
    }
    assert (data.num_truncated, data.num_without_targets) == (1, 0)


def test_arrays_are_as_wide_as_the_longest_record(gpt, make_gpt):
    assert encode_language(Texts(["bad"]), gpt, 64).input_ids.shape[1] < 8
    padded = encode_language(Texts(["bad", "a good film"]), make_gpt(pad_token="<s>"), 64)
    assert (padded.input_ids[~padded.attention_mask] == gpt.convert_tokens_to_ids("<s>")).all()


def test_special_tokens_around_a_text(make_gpt):
    text = Texts(["the film"])
    assert one(text, make_gpt()) == (f"the film{END}", f" film{END}")
    # The opening token cannot be predicted; the first of the text can.
    assert one(text, make_gpt(opening="<s>")) == (f"<s>the film{END}", f"the film{END}")
    # A tokenizer that closes texts itself does not close them twice, nor does a text.
    both = make_gpt(opening="<s>", closing=END)
    assert one(text, both) == (f"<s>the film{END}", f"the film{END}")
    assert one(Texts([f"the film{END}"]), both) == (f"<s>the film{END}", f"the film{END}")


@pytest.mark.parametrize("opening", [None, "<s>"])
@pytest.mark.parametrize("row", range(len(PROMPTS)))
def test_completions(row, opening, make_gpt):
    tokenizer = make_gpt(opening=opening)
    prompt, completion = PROMPTS[row], COMPLETIONS[row]
    whole, targets = one(Completions([prompt], [completion]), tokenizer)
    assert whole == (opening or "") + prompt + completion + END
    assert targets == completion + END


@pytest.mark.parametrize("row", range(len(PROMPTS)))
def test_prompt_tokens_are_those_of_the_prompt_alone(row, gpt):
    data = encode_language(Completions([PROMPTS[row]], [COMPLETIONS[row]]), gpt, 64)
    alone = gpt(PROMPTS[row])["input_ids"]
    np.testing.assert_array_equal(data.input_ids[0, : len(alone)], alone)
    np.testing.assert_array_equal(np.flatnonzero(data.loss_mask[0])[0], len(alone))


def test_a_token_over_the_boundary(gpt):
    """ "the fi" + "lm" must not be learnt as the token " film"."""
    data = encode_language(Completions(["the fi"], ["lm is good"]), gpt, 64)
    apart = gpt("the fi")["input_ids"] + gpt("lm is good")["input_ids"]
    assert gpt("the film is good")["input_ids"] != apart
    np.testing.assert_array_equal(data.input_ids[0], [*apart, gpt.eos_token_id])


def test_tokenizer_that_puts_a_space_before_every_text():
    """As Llama 2's does: a completion tokenised alone would begin with two spaces."""
    import tokenizers
    import transformers

    vocabulary = {word: i for i, word in enumerate(["</s>", "▁", "▁the", "▁film", "▁is"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="▁"))
    spaces = [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    backend.normalizer = tokenizers.normalizers.Sequence(spaces)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    data = encode_language(Completions(["the film"], [" is"]), tokenizer, 8)
    np.testing.assert_array_equal(data.input_ids, [[2, 3, 4, 0]])
    np.testing.assert_array_equal(data.loss_mask, [[False, False, True, True]])
    assert tokenizer(" is")["input_ids"] == [1, 4]


def test_separator(gpt):
    records = Completions(["name[Vaults]"], ["Vaults serves food"])
    whole, targets = one(records, gpt, separator="\n")
    assert (whole, targets) == (
        f"name[Vaults]\nVaults serves food{END}",
        f"Vaults serves food{END}",
    )


@pytest.mark.parametrize(
    ("records", "made_of"),
    [
        (Texts(["a"]), "texts without a prompt"),
        (Conversations([CHAT]), "messages"),
        (Completions([[user("a")]], [[assistant("b")]]), "messages"),
    ],
)
def test_separator_without_such_prompts(records, made_of, chat):
    with pytest.raises(ValueError, match=f"separator=' ' stands between.*{made_of}"):
        encode_language(records, chat, 64, separator=" ")


def test_conversations(chat):
    whole, targets = one(Conversations([CHAT]), chat)
    assert whole == "".join(
        f"<|turn|>{message['role']}\n{message['content']}<|end|>\n" for message in CHAT
    )
    assert targets == "is long<|end|>is good<|end|>"


def test_first_token_is_no_target(make_gpt):
    everything = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    tokenizer = make_gpt(chat_template=everything)
    assert one(Conversations([[assistant("the film")]]), tokenizer) == ("the film", " film")


@pytest.mark.parametrize("template", ["marked", "plain"])
def test_completions_of_messages_need_no_markers(template, chat, make_gpt):
    tokenizer = chat if template == "marked" else make_gpt(chat_template=PLAIN_TEMPLATE)
    whole, targets = one(Completions([CHAT[:3]], [CHAT[3:]]), tokenizer)
    assert whole == one(Conversations([CHAT]), chat)[0]
    # The template's line break after the end of the turn is learnt; no end token is added.
    assert targets == "is good<|end|>\n"


def test_template_that_rewrites_the_prompt(make_gpt):
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(
        ValueError, match="record 2: the chat template writes the prompt in another"
    ):
        encode_language(
            Completions(["a", [user("b")]], ["c", [assistant("d")]]),
            make_gpt(chat_template=template),
            64,
        )


@pytest.mark.parametrize("records", [Conversations([CHAT]), Completions([CHAT[:3]], [CHAT[3:]])])
def test_no_template(records, gpt):
    with pytest.raises(ValueError, match="has no chat template"):
        encode_language(records, gpt, 64)


def test_template_without_markers(make_gpt):
    _, targets = one(Conversations([CHAT]), make_gpt(chat_template=PLAIN_TEMPLATE))
    # All that the template writes up to the next message, as in completions.
    assert targets == "is long<|end|>\nis good<|end|>\n"


@pytest.mark.parametrize(
    ("role", "said"),
    [("fool", "record 2: no fools here$"), ("spy", r"record 2 \(TemplateError\)$")],
)
def test_template_that_refuses(role, said, chat):
    bad = [{"role": role, "content": "takes insulin"}]
    with pytest.raises(ValueError, match=said) as caught:
        encode_language(Conversations([CHAT, bad]), chat, 64)
    assert "insulin" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_records_without_targets_are_kept_and_counted(gpt, chat):
    records = Completions(["the film is good " * 5, "the film"], [" bad", " is good"])
    data = encode_language(records, gpt, 8)
    np.testing.assert_array_equal(data.without_targets, [True, False])
    assert (len(data), data.num_without_targets, data.num_truncated) == (2, 1, 1)
    data = encode_language(Conversations([CHAT, [user("the film")]]), chat, 64)
    np.testing.assert_array_equal(data.without_targets, [False, True])


def test_no_record_with_a_target(gpt, chat):
    long = Completions(["the film is good " * 5] * 2, [" bad"] * 2)
    with pytest.raises(ValueError, match=r"any of the 2 records: within max_length=8 .*larger"):
        encode_language(long, gpt, 8)
    with pytest.raises(ValueError, match=r"any of the 1 records, of which 0 were cut.*marks"):
        encode_language(Conversations([[user("the film")]]), chat, 64)


def test_no_records(gpt):
    data = encode_language(Texts([]), gpt, 8)
    assert (len(data), data.num_truncated, data.num_without_targets) == (0, 0, 0)


def test_many_records_keep_their_order(gpt):
    texts = [" ".join(["the film is good and bad"] * (n % 5 + 1)) for n in range(2500)]
    data = encode_language(Texts(texts), gpt, 64)
    for row in range(0, 2500, 97):
        assert words(gpt, data.input_ids[row], data.attention_mask[row]) == texts[row] + END


def test_long_texts_give_no_warning(make_gpt, caplog):
    tokenizer = make_gpt(model_max_length=16)
    with caplog.at_level(logging.WARNING, "transformers"):
        encode_language(Texts(["the film is good " * 20]), tokenizer, 16)
    assert not caplog.records


@pytest.mark.parametrize(
    ("max_length", "options", "message"),
    [
        (7, {}, "max_length=7 leaves almost no text.*at least 8"),
        (65, {}, "max_length=65 is more than the 64 tokens"),
        (8, {"eos_token": None}, "no end-of-sequence token.*set tokenizer.eos_token"),
    ],
)
def test_refusals(max_length, options, message, make_gpt):
    with pytest.raises(ValueError, match=message):
        encode_language(Texts(["film"]), make_gpt(**options), max_length)


def test_slow_tokenizer():
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(TypeError, match=r"fast tokenizer.*got SlowTokenizer"):
        encode_language(Texts(["film"]), SlowTokenizer(), 8)


def test_batches(gpt):
    """What the training loop does with a batch keeps every real token and every target."""
    texts = ["the film is good " * (n + 1) for n in range(9)]
    data = encode_language(Completions(["a film, "] * 9, texts), gpt, 64)
    ordered = by_length(data, np.array([8, 0, 3, 1]))
    np.testing.assert_array_equal(ordered, [0, 1, 3, 8])
    (rows, mask), (last_rows, last_mask) = microbatches(ordered, 3)
    piece = trim_padding(data.take(rows))
    assert isinstance(piece, LanguageDataset)
    assert piece.input_ids.shape == piece.attention_mask.shape == piece.loss_mask.shape == (3, 24)
    for row, index in enumerate(rows):
        count = data.attention_mask[index].sum()
        np.testing.assert_array_equal(piece.input_ids[row], data.input_ids[index, :24])
        assert piece.attention_mask[row].sum() == count
        assert piece.loss_mask[row].sum() == data.loss_mask[index].sum()
    assert mask.all() and last_mask.sum() == 1 and (last_rows == 8).all()
    assert piece.fingerprint() != data.take(rows).fingerprint() == data.take(rows).fingerprint()
