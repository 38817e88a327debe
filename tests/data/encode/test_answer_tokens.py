"""What is learnt in chats is what the assistant says, token by token."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.data import Conversations, encode_language
from dpjax.data.encode.answer_tokens import tokens_in_spans
from tests.support.tiny_tokenizers import make_tokenizer


def naive(text, spans, offsets):
    """One character at a time; offsets as tokenizers write them that count blanks."""
    answers = {place for start, end in spans for place in range(start, end)}
    learnt = []
    for start, end in offsets:
        places = range(start, end)
        others = [place for place in places if place not in answers and not text[place].isspace()]
        learnt.append(bool(answers.intersection(places)) and not others)
    return learnt


@given(st.text("ab \n", max_size=12), st.data())
def test_against_a_naive_reference(text, data):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    offsets = list(itertools.pairwise(places))
    found = tokens_in_spans(text, spans, offsets)
    assert found.tolist() == naive(text, spans, offsets)
    # Spans may be in pieces, in any order, and overlap.
    pieces = [(place, place + 1) for start, end in spans for place in range(start, end)]
    shuffled = data.draw(st.permutations(pieces)) + spans
    assert tokens_in_spans(text, shuffled, offsets).tolist() == found.tolist()


def test_tokens_of_blanks_that_are_not_counted():
    """Byte-level tokenizers write (end, end) for a token of spaces alone."""
    text = "u:  x  y"
    trimmed = [(0, 1), (1, 2), (4, 4), (4, 5), (7, 7), (7, 8)]
    whole = [(0, 1), (1, 2), (2, 4), (4, 5), (5, 7), (7, 8)]
    for spans in ([(2, 8)], [(4, 8)], [(2, 4)], [(4, 5)], []):
        expected = naive(text, spans, whole)
        assert tokens_in_spans(text, spans, trimmed).tolist() == expected


def learnt(tokenizer, template, *contents, max_length=64):
    """The words learnt in a conversation of user and assistant in turn."""
    roles = itertools.cycle(("user", "assistant"))
    talk = [{"role": role, "content": content} for role, content in zip(roles, contents)]  # noqa: B905
    tokenizer.chat_template = template
    data = encode_language(Conversations([talk]), tokenizer, max_length)
    whole = tokenizer(
        tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False
    )["input_ids"]
    assert data.input_ids[0][data.attention_mask[0]].tolist() == whole[:max_length]
    return tokenizer.convert_ids_to_tokens(data.input_ids[0][data.loss_mask[0]].tolist())


def turns(before, answer, after):
    """A template; `answer` has the marks in it."""
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        f"{{{{ {before!r} }}}}{answer}{{{{ {after!r} }}}}"
        "{% else %}{{ 'user ' + m.content + '\n' }}{% endif %}{% endfor %}"
    )


MARKED = "{% generation %}{{ m.content }}{% endgeneration %}"


@pytest.fixture
def words():
    """Whole words; blanks are no tokens."""
    import tokenizers
    import transformers

    known = ["[UNK]", "</s>", ":", "user", "assistant", "good", "bad", "film", "play", "hard"]
    vocabulary = {word: place for place, word in enumerate(known)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="[UNK]", model_max_length=64
    )


@pytest.mark.parametrize("blank", ["", " ", "\n", "\n\n \t"])
@pytest.mark.parametrize("where", ["inside", "outside", "both"])
def test_marks_that_fall_on_no_token(blank, where, words):
    inside = blank if where != "outside" else ""
    outside = blank if where != "inside" else " "
    written = (
        f"{{% generation %}}{{{{ {inside!r} + m.content + {inside!r} }}}}{{% endgeneration %}}"
    )
    template = turns("assistant: " + outside, written, outside + " ")
    talk = ("film", "good film", "play user", "bad", "film", "hard")
    assert learnt(words, template, *talk) == ["good", "film", "bad", "hard"]


def test_an_end_of_turn_that_is_marked(words):
    written = "{% generation %}{{ m.content + '</s>' }}{% endgeneration %}"
    template = turns("assistant: ", written, "\n")
    assert learnt(words, template, "film", "good", "play", "bad") == ["good", "</s>", "bad", "</s>"]


def test_answers_of_nothing_but_what_the_template_drops(words):
    empty = "{% generation %}{{ m.content | replace('bad', '') }}{% endgeneration %}"
    template = turns("assistant: ", empty, "\n")
    assert learnt(words, template, "film", "bad", "play", "good") == ["good"]


@pytest.mark.parametrize("max_length", range(8, 17))
def test_conversations_that_are_cut(max_length, words):
    template = turns("assistant: ", MARKED, "\n")
    talk = ("film", "good film", "play", "bad", "film", "hard")
    whole = "user film assistant : good film user play assistant : bad user film assistant : hard"
    targets = [4, 5, 10, 15]
    kept = [whole.split()[place] for place in targets if place < max_length]
    assert learnt(words, template, *talk, max_length=max_length) == kept


def test_a_token_of_user_and_assistant_is_not_learnt(words):
    """No blank stands between what the template writes and the answer."""
    template = turns("assistant:", MARKED, "user")
    assert learnt(words, template, "film", "good film") == ["good"]
    template = turns("ha", MARKED, " ")
    assert learnt(words, template, "film", "rd good") == ["good"]


def byte_level(trim_offsets):
    import tokenizers

    tokenizer = make_tokenizer()
    processor = tokenizers.processors.ByteLevel(trim_offsets=trim_offsets)
    tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer


@pytest.mark.parametrize("trim_offsets", [True, False])
@pytest.mark.parametrize(
    ("before", "content", "after", "expected"),
    [
        ("A:", " good", "\n", "Ġgood"),
        # The blank is the template's, the token the answer's first.
        ("A: ", "good", "\n", "Ġgood"),
        ("A:\n", "good film", "\n", "g o od Ġfilm"),
        ("A:\n", " good", "\n", "Ġgood"),
        ("A:\n", "  good  ", "\n", "Ġ Ġgood Ġ Ġ"),
        ("A:\n", "\n\n", "x", None),
        ("A:\n", "é😀", "\n", "Ã © ð Ł ĺ Ģ"),
        ("A:\n", "good", " film", "g o od"),
        # "fi" and "lm" are one token.
        ("A: fi", "lm good", "\n", "Ġgood"),
        ("A:\n", "good fi", "lm\n", "g o od"),
    ],
)
def test_byte_level_tokens(trim_offsets, before, content, after, expected):
    tokenizer = byte_level(trim_offsets)
    if expected is None:
        content, expected = "the\n\nbook", "t he Ċ Ċ b ook"
    found = learnt(tokenizer, turns(before, MARKED, after), "film", content)
    assert "".join(found) == "".join(expected.split())


def test_transformers_finds_the_same(chat):
    """Where every mark falls on the edge of a token."""
    talk = [
        {"role": role, "content": content}
        for _ in range(3)
        for role, content in (("user", "the film?"), ("assistant", "is good, a long book"))
    ]
    data = encode_language(Conversations([talk]), chat, 64)
    theirs = chat.apply_chat_template(
        talk,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
    )
    np.testing.assert_array_equal(data.input_ids[0], theirs["input_ids"][:64])
    np.testing.assert_array_equal(data.loss_mask[0], theirs["assistant_masks"][:64])
