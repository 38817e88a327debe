"""Templates of the shapes that well-known models have, without marks: what is learnt, exactly."""

from __future__ import annotations

import datetime
import functools

import pytest

from dpjax.data import Conversations, RecordError, encode_language
from tests.support.chat_shapes import SHAPES, unmarked
from tests.support.tiny_tokenizers import make_tokenizer

NOON = datetime.datetime(2024, 7, 26, 12)
LONG = 400


def said(role, content, **more):
    return {"role": role, "content": content} | more


CALL = said(
    "assistant",
    None,
    tool_calls=[{"type": "function", "function": {"name": "film", "arguments": {"long": 1}}}],
)
ASK, ANSWER = said("user", "is the film good?"), said("assistant", "the film is good")
SYSTEM = said("system", "a good book")
TALKS = {
    "one answer": [ASK, ANSWER],
    "three answers": [ASK, ANSWER, ASK, said("assistant", "bad"), ASK, ANSWER],
    "a system": [SYSTEM, ASK, ANSWER, ASK, said("assistant", "the play is bad")],
    "no thinking": [said("system", "/no_think a book"), ASK, ANSWER, ASK, ANSWER],
    "ends with a question": [ASK, ANSWER, ASK, ANSWER, ASK],
    "blanks": [ASK, said("assistant", " good \n"), ASK, said("assistant", "\nbad\n ")],
    "thoughts": [ASK, said("assistant", "<think>\na\n</think>\n\nbad")] * 2,
    "half a thought": [ASK, said("assistant", "good"), ASK, said("assistant", "a</think>\nbad")],
    "equal words": [said("user", "good"), said("assistant", "good")] * 3,
    "weights": [ASK, ANSWER | {"weight": 0}, ASK, ANSWER | {"weight": 1}, ASK, ANSWER],
}
TOOL_TALKS = {
    "a tool": [SYSTEM, ASK, CALL, said("tool", "short"), ANSWER, ASK, ANSWER],
    "calls that are learnt": [ASK, ANSWER, ASK, CALL | {"weight": 1}],
}


@functools.cache
def tokenizer_of(name, marked=False):
    import tokenizers

    shape = SHAPES[name]
    tokenizer = make_tokenizer(bos_token="<s>", model_max_length=LONG)
    tokenizer.add_tokens(
        [tokenizers.AddedToken(text, special=True, normalized=False) for text in shape.specials]
    )
    tokenizer.chat_template = shape.template if marked else unmarked(shape.template)
    return tokenizer


def talks_of(name):
    talks = TALKS | (TOOL_TALKS if SHAPES[name].writes_tools else {})
    if name == "DeepSeek-R1 distilled":
        # Where a call begins cannot be told: the invitation opens <think>.
        del talks["calls that are learnt"]
    return talks


def encode(name, talks, marked=False):
    """Of every conversation the tokens, and which of them are learnt."""
    records = Conversations(list(talks))
    data = encode_language(records, tokenizer_of(name, marked), LONG, today=NOON)
    lengths = data.attention_mask.sum(axis=1)
    return [
        (ids[:length].tolist(), mask[:length].tolist())
        for ids, mask, length in zip(data.input_ids, data.loss_mask, lengths, strict=True)
    ]


def naive(name, talk):
    """The reference: token by token, which piece of the text it is of."""
    answers = [message for message in talk if message["role"] == "assistant"]
    learnt = iter([bool(m.get("weight", "tool_calls" not in m)) for m in answers])
    text, counts, is_learnt = "", [], False
    for piece, is_answer in SHAPES[name].pieces(talk):
        if is_answer:
            is_learnt = next(learnt)
        # What only closes the text belongs to the answer that ends it.
        is_end = name == "Phi 3" and piece == "<|endoftext|>" and talk[-1] is answers[-1]
        counts += [(is_answer or is_end) and is_learnt] * len(piece)
        text += piece
    encoded = tokenizer_of(name)(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [all(counts[start:end]) for start, end in encoded["offset_mapping"]]
    return encoded["input_ids"], mask


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_learnt(name):
    talks = talks_of(name)
    for talk, found in zip(talks, encode(name, talks.values()), strict=True):
        assert found == naive(name, talks[talk]), talk
        assert any(found[1])


@pytest.mark.parametrize("name", SHAPES)
def test_marks_give_what_transformers_gives(name, monkeypatch):
    """Its mask of the template with marks; without marks the same is found."""

    class Noon(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOON

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Noon)
    talks = [TALKS[talk] for talk in ("one answer", "three answers", "a system", "no thinking")]
    theirs = tokenizer_of(name, True).apply_chat_template(
        talks, return_dict=True, return_assistant_tokens_mask=True
    )
    expected = [
        (ids, list(map(bool, mask)))
        for ids, mask in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True)
    ]
    assert encode(name, talks, marked=True) == expected
    if name != "Phi 3":
        assert encode(name, talks) == expected


@pytest.mark.parametrize("name", SHAPES)
def test_weights_with_marks(name):
    ((ids, mask),) = encode(name, [TALKS["weights"]], marked=True)
    expected_ids, expected = naive(name, TALKS["weights"])
    assert ids == expected_ids
    # The last answer of Phi 3 is closed after its mark.
    assert mask == (expected if name != "Phi 3" else [*expected[:-1], False])


THOUGHT = ANSWER | {"reasoning_content": "a long book"}


def test_reasoning_is_learnt_where_it_is_written():
    talk = [ASK, THOUGHT, ASK, CALL | {"weight": 1}, said("tool", "short"), THOUGHT]
    # Of the call nothing tells where it ends: alone it has empty reasoning before it.
    with pytest.raises(RecordError, match="ends an answer in another way once a message follows"):
        encode("Qwen 3", [talk])
    talk[3] = CALL
    ((ids, mask),) = encode("Qwen 3", [talk])
    assert (ids, mask) == naive("Qwen 3", talk)
    learnt = tokenizer_of("Qwen 3").decode(
        [i for i, counts in zip(ids, mask, strict=True) if counts]
    )
    assert learnt == (
        "the film is good<|end|>\n<think>\na long book\n</think>\n\nthe film is good<|end|>\n"
    )


FORM = (
    "{% for m in messages %}{{ m.role + ':\n' + m.content + EXTRA }}{% endfor %}"
    "{% if add_generation_prompt %}{{ INVITATION }}{% endif %}"
)
SECRET = "takes insulin"
TALK = [said("user", SECRET), ANSWER, said("user", SECRET), ANSWER]
UNCLEAR = {
    # What the template does: (the template, what is said).
    "the system speaks before the last question": (
        "{% for m in messages %}{% if loop.index0 >= messages | length - 2 and m.role == 'user' %}"
        "{{ 'be good' }}{% endif %}{{ '[' + m.content + ']' }}{% endfor %}",
        "before an answer in another way to invite it.*message 2 cannot",
    ),
    "counts the messages": (
        "{{ messages | length }}" + FORM.replace("EXTRA", "''").replace("INVITATION", "''"),
        "before an answer in another way to invite it.*message 2 cannot",
    ),
    "invites by another name": (
        FORM.replace("EXTRA", "'\n'").replace("INVITATION", "'bot:\n'"),
        "before an answer in another way to invite it.*message 2 cannot",
    ),
    "opens reasoning that the text does not have": (
        FORM.replace("EXTRA", "'\n'").replace("INVITATION", "'assistant:\n<think>'").replace(
            "m.content", "m.content | reverse"
        ),
        "before an answer in another way to invite it.*message 2 cannot",
    ),
    "ends the last message otherwise": (
        FORM.replace("EXTRA", "('!' if loop.last and m.role != 'user' else '|')").replace(
            "INVITATION", "'assistant:\n'"
        ),
        "in another way once a message follows it.*message 2 cannot",
    ),
    "a token of the invitation and the answer": (
        FORM.replace("':\n'", "':\n '").replace("EXTRA", "'\n'").replace(
            "INVITATION", "'assistant:\n '"
        ),
        "lets a token reach over the edge of the answer.*message 2 cannot",
    ),
    "refuses fewer messages": (
        "{% if messages | length < 4 %}{{ raise_exception('too few') }}{% endif %}"
        + FORM.replace("EXTRA", "'\n'").replace("INVITATION", "'assistant:\n'"),
        "refuses the messages before or up to an answer alone.*message 2 cannot",
    ),
    "a token of the answer and what follows": (
        FORM.replace("m.role + ':\n'", "('lm' if loop.index0 == 2 else '\n')").replace(
            "EXTRA", "('' if loop.index0 == 1 else '.')"
        ).replace("INVITATION", "'\n'"),
        "lets a token reach over the edge of the answer.*message 2 cannot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_cannot_be_told_is_refused(case, make_gpt):
    template, message = UNCLEAR[case]
    talk = list(TALK)
    if "follows" in case:
        talk[1] = said("assistant", "the fi")
    tokenizer = make_gpt(chat_template=template)
    fine = [ASK, ANSWER | {"weight": 0}] * 2
    with pytest.raises(RecordError, match=f"^record 2: the chat template .*{message}") as caught:
        encode_language(Conversations([fine, talk]), tokenizer, 64)
    assert "insulin" not in str(caught.value)


def test_an_answer_that_comes_first():
    talk = [ANSWER, ASK, ANSWER]
    with pytest.raises(
        RecordError, match=r"record 1: .* message 1 cannot be told; give .* weight 0"
    ):
        encode("SmolLM 2", [talk])
    talk[0] = ANSWER | {"weight": 0}
    assert encode("SmolLM 2", [talk]) == [naive("SmolLM 2", talk)]


@pytest.mark.parametrize(
    "marks", ["not loop.first", "m.role == 'user' or loop.index0 == 1", "loop.last"]
)
def test_marks_that_are_not_the_assistants(marks, make_gpt):
    """Which of them a weight of 0 takes out cannot be told."""
    template = (
        "{% for m in messages %}{% if MARKS %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %} {% endfor %}"
    )
    talk = [ASK, ANSWER, ASK, ANSWER]
    tokenizer = make_gpt(chat_template=template.replace("MARKS", marks))
    assert encode_language(Conversations([talk]), tokenizer, 64).loss_mask.any()
    talk[1] = ANSWER | {"weight": 0}
    with pytest.raises(RecordError, match="marks other parts once a message follows"):
        encode_language(Conversations([talk]), tokenizer, 64)


def test_calls_that_marks_leave_out(make_gpt):
    """A template may mark several parts of an answer, and none of a call."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.tool_calls %}call"
        "{% else %}{% for w in m.content.split(' ') %}{% generation %}{{ w }}{% endgeneration %} "
        "{% endfor %}{% endif %}{% else %}{{ m.content }}{% endif %}. {% endfor %}"
    )
    tokenizer = make_gpt(chat_template=template)
    talk = [ASK, CALL, said("tool", "short"), ANSWER, ASK, ANSWER | {"weight": 0}]
    data = encode_language(Conversations([talk]), tokenizer, 64)
    assert tokenizer.decode(data.input_ids[data.loss_mask]).strip() == "the film is good"


@pytest.mark.parametrize("more", [CALL, THOUGHT], ids=["tool_calls", "reasoning_content"])
def test_what_a_template_does_not_write_is_refused(more):
    key = "tool_calls" if "tool_calls" in more else "reasoning_content"
    with pytest.raises(RecordError, match=f"record 2 has {key}, which the chat template of .* not"):
        encode("SmolLM 2", [[ASK, ANSWER], [ASK, more]])


@pytest.mark.parametrize(
    ("write", "written"),
    [
        # GLM's templates would write None; DeepSeek's ask whether it is.
        ("{{ m.content if m.content is defined else '' }}", ""),
        ("{% if m.content is not none %}{{ '' + m.content }}{% else %}{{ '' }}{% endif %}", ""),
        ("{{ m.content }}", ""),
    ],
)
def test_a_call_without_content(write, written, make_gpt):
    """As transformers renders it: a key that is null is not there."""
    template = (
        "{% for m in messages %}{{ m.role + ':' }}" + write + "{% if m.tool_calls %}call{% endif %}"
        "{{ '.' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    tokenizer = make_gpt(chat_template=template)
    data = encode_language(Conversations([[ASK, CALL | {"weight": 1}]]), tokenizer, 64)
    text = tokenizer.decode(data.input_ids[0])
    assert text == f"user:is the film good?.assistant:{written}call."
    assert tokenizer.decode(data.input_ids[data.loss_mask]) == f"{written}call."
