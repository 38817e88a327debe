"""Chat templates write what transformers lets them write, and no more than they may."""

from __future__ import annotations

import datetime
import json

import pytest

from dpjax.data import (
    Completions,
    Conversations,
    RecordError,
    encode_language,
    encode_prompts,
)
from dpjax.data.encode.chat_template import ChatTemplate
from tests.support.tiny_tokenizers import MARKED_TEMPLATE, PLAIN_TEMPLATE

TALK = [
    {"role": "system", "content": ""},
    {"role": "user", "content": " the \"film\"\n\té 😀 <|end|> {{ 'x' }}"},
    {"role": "assistant", "content": "is good\n"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "it is"},
]
NOON = datetime.datetime(2024, 7, 26, 12, 5, 7)
TEMPLATES = {
    "marked": MARKED_TEMPLATE,
    "plain": PLAIN_TEMPLATE,
    "special tokens": (
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    ),
    "blocks on lines": (
        "{% for m in messages %}\n    {%- if m.role == 'system' %}\n        {% continue %}\n"
        "    {% endif %}\n  {{ m['content'] | trim }}\n{% endfor %}\n"
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{{ ns.n }}{% if ns.n > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "json": "{{ messages | tojson }}{{ messages[1] | tojson(indent=2) }}{{ dict(a=1) }}",
    "what is not given": (
        "{% if tools is none %}no tools{% endif %}{% if documents %}d{% endif %}"
        "{% if add_generation_prompt %}go{% endif %}{{ enable_thinking | default('unset') }}"
    ),
    "a macro": (
        "{% macro say(m) %}{{ m.role }}: {{ m.content }}{% endmacro %}"
        "{% for m in messages %}{{ say(m) }}{% endfor %}"
    ),
    "methods": "{{ messages[1].content.split('\n')[0].upper() }}{{ messages[1:] | length }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("invites", [False, True])
def test_texts_are_those_of_transformers(name, invites, make_gpt):
    tokenizer = make_gpt(chat_template=TEMPLATES[name], bos_token="<s>")
    with ChatTemplate(tokenizer) as template:
        text = template.render(TALK, 1, add_generation_prompt=invites)
    assert text == tokenizer.apply_chat_template(
        TALK, tokenize=False, add_generation_prompt=invites
    )


def marked(tokenizer, messages=TALK):
    with ChatTemplate(tokenizer) as template:
        text, spans = template.render_marked(messages, 1)
        assert text == template.render(messages, 1)
    return [text[start:end] for start, end in spans]


SPEAK = (
    "{% if m.role == 'assistant' %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endif %}"
)
MARKED = {
    "in a loop": "{% for m in messages %}{{ m.role }}" + SPEAK + "{% endfor %}",
    "in a macro": "{% macro say(m) %}" + SPEAK + "{% endmacro %}"
    "{% for m in messages %}{{ m.role }}{{ say(m) }}{% endfor %}",
    "in an assignment": "{% for m in messages %}{% set x %}" + SPEAK + "{% endset %}"
    "{{ m.role }}{{ x }}{% endfor %}",
    "in a filter": "{% for m in messages %}{{ m.role }}{% filter trim %} "
    + SPEAK
    + "{% endfilter %}{% endfor %}",
    "in marks": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{% generation %}{{ m.content[:2] }}{% endgeneration %}{{ m.content[2:] }}{% endgeneration %}"
    "{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("name", MARKED)
def test_marks_are_found_wherever_the_text_went(name, make_gpt):
    assert marked(make_gpt(chat_template=MARKED[name])) == ["is good\n", "it is"]


def test_texts_that_hold_rare_characters(make_gpt):
    odd = "".join(map(chr, [0xFDD0, 0xFDD1, 0xE000, 0x10FFFF]))
    talk = [{"role": "assistant", "content": odd}, {"role": "assistant", "content": odd[::-1]}]
    tokenizer = make_gpt(chat_template=MARKED["in a loop"])
    assert marked(tokenizer, talk) == [odd, odd[::-1]]


@pytest.mark.parametrize(
    "around",
    [
        "{% filter trim %}X{% endfilter %}",
        "{% set x %}X{% endset %}{{ x | reverse }}",
        "{% set x %}X{% endset %}{{ x | length }}",
        "{% set x %}X{% endset %}{{ x.split('t')[1] }}",
        "{% set x %}X{% endset %}{{ x[1:] }}",
    ],
)
def test_marked_text_that_is_changed_is_refused(around, make_gpt):
    inner = "{% generation %} {{ messages[4].content }} {% endgeneration %}"
    tokenizer = make_gpt(chat_template=around.replace("X", inner))
    with pytest.raises(RecordError, match=r"works on the messages of record 1 after it has marked"):
        marked(tokenizer)


def encode(tokenizer, **options):
    return encode_language(Conversations([TALK]), tokenizer, 64, **options)


GENERATION = "{% generation %}{{ messages[-1].content }}{% endgeneration %}"
TOO_MUCH = {
    "a long multiplication": "{{ 'a' * (messages | length * 10**10) }}",
    "a constant": "{{ 'a' * 10**11 }}",
    "a filter": "{{ 'a' | center(10**10) }}",
    "a width": "{{ '{:>99999999999}'.format(1) }}",
    "a percent sign": "{{ '%99999999999d' % 1 }}",
    "a list": "{{ [0] * 10**11 }}",
    "a joined range": "{{ range(99999) | join('a' * 10**6) }}",
    "doubling": (
        "{% set ns = namespace(x='a') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}"
    ),
    "replacing": "{{ ('a' * 10**5).replace('a', 'a' * 10**6) }}",
    "indented JSON": "{{ messages | tojson(indent=10**10) }}",
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_memory_is_bounded(what, make_gpt):
    tokenizer = make_gpt(chat_template=TOO_MUCH[what] + GENERATION)
    message = r"the chat template of \w+ takes more than 512 MB for the messages of record 1"
    with pytest.raises(ValueError, match=message):
        encode(tokenizer)


@pytest.mark.parametrize(
    "loop",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        # One operation of the interpreter, which no handler of a signal interrupts.
        "{{ (messages | length) ** (9 ** 9) }}",
    ],
)
def test_time_is_bounded(loop, make_gpt, monkeypatch):
    monkeypatch.setattr("dpjax.data.encode.chat_template.SECONDS", 0.5)
    tokenizer = make_gpt(chat_template=loop + GENERATION)
    with pytest.raises(ValueError, match=r"takes more than 0.5 s of computing for the messages of"):
        encode(tokenizer)


def test_length_is_bounded_beside_the_messages(make_gpt):
    tokenizer = make_gpt(chat_template="{{ 'a ' * 600000 }}" + GENERATION)
    with pytest.raises(ValueError, match=r"writes more than 1000000 characters and 10 times those"):
        encode(tokenizer)
    long = [{"role": "assistant", "content": "a " * 600000}]
    tokenizer = make_gpt(chat_template=GENERATION)
    assert encode_language(Conversations([long]), tokenizer, 64).truncated.all()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", r"of \w+ is no Jinja template: Expected an expression.* \(line 1\)"),
        ("a\n{% endgeneration %}", r"is no Jinja template: .*\(line 2\)"),
        ("{{ messages | random }}", "is no Jinja template: No filter named 'random'"),
        ("{{ 'a' | nothing }}", "is no Jinja template: No filter named 'nothing'"),
        ("{{ " + "(" * 9999 + ")" * 9999 + " }}", r"cannot be read \(RecursionError\)"),
        ("{{ messages.a.b }}", r"refuses the messages of record 1 \(UndefinedError\)"),
        ("{{ messages + 1 }}", r"refuses the messages of record 1 \(TypeError\)"),
        ("{{ 1 / (messages | length - 5) }}", r"record 1 \(ZeroDivisionError\)"),
        ("{{ ''.__class__.mro() }}", r"record 1 \(SecurityError\)"),
        ("{% set ns = namespace(__a__=1) %}", r"record 1 \(SecurityError\)"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"record 1 \(RecursionError\)"),
        ("{{ raise_exception('') }}", r"record 1 \(TemplateError\)$"),
        ("{{ raise_exception('roles must alternate') }}", "record 1: roles must alternate$"),
        ("\ud83d", "writes half a surrogate pair .* for record 1"),
    ],
)
def test_whatever_a_template_raises_is_one_sentence(template, said, make_gpt):
    with pytest.raises(ValueError, match=said):
        encode(make_gpt(chat_template=template + GENERATION))


def test_a_template_that_is_not_text(make_gpt):
    tokenizer = make_gpt()
    tokenizer.chat_template = {"default": 5}
    with pytest.raises(ValueError, match="must be text, got a int"):
        encode(tokenizer)


def test_the_name_of_the_folder_is_said(make_gpt, tmp_path):
    import transformers

    make_gpt(chat_template="{{ 1 / 0 }}" + GENERATION).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"the chat template of {tmp_path} refuses"):
        encode(tokenizer)


def test_the_process_ends_with_the_encoding(chat):
    with ChatTemplate(chat) as template:
        template.render(TALK, 1)
        process = template._process
        assert process.poll() is None
    assert process.poll() is not None
    with pytest.raises(RuntimeError, match="mine"), ChatTemplate(chat) as template:
        template.render(TALK, 1)
        process = template._process
        raise RuntimeError("mine")
    assert process.poll() is not None


DATED = "{{ strftime_now('%d %b %Y %H:%M:%S') + ' ' }}"


@pytest.mark.parametrize("today", [NOON, NOON.replace(tzinfo=datetime.UTC)])
def test_templates_get_the_date_that_is_given(today, make_gpt):
    tokenizer = make_gpt(chat_template=DATED + "{{ messages[0].content }}" + GENERATION)
    first, second = (encode(tokenizer, today=today) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    text = tokenizer.decode(first.input_ids[0][first.attention_mask[0]])
    assert text == "26 Jul 2024 12:05:07 it is"
    later = encode(tokenizer, today=today + datetime.timedelta(days=1))
    assert later.fingerprint() != first.fingerprint()


def test_prompts_and_completions_get_the_same_date(make_gpt):
    tokenizer = make_gpt(chat_template="{{ strftime_now('%j ') }}" + MARKED_TEMPLATE)
    records = Completions([TALK[1:2]], [TALK[2:3]])
    options = {"max_length": 60, "today": NOON}
    prompts = encode_prompts(records, tokenizer, **options)
    data = encode_language(records, tokenizer, **options)
    before = data.input_ids[0, : data.loss_mask[0].argmax()].tolist()
    assert prompts.input_ids[0].tolist() == before


def test_the_clock_is_not_read(make_gpt):
    """Without a date a template that asks for one is refused: the next run would differ."""
    tokenizer = make_gpt(chat_template=DATED + GENERATION)
    with pytest.raises(ValueError, match=r"writes the current date into .*record 1; set today"):
        encode(tokenizer)
    # Templates that ask whether there is a date, as Llama 3.2's, find one.
    asks = "{% if strftime_now is defined %}" + DATED + "{% endif %}"
    with pytest.raises(ValueError, match="set today"):
        encode(make_gpt(chat_template=asks + GENERATION))
    with pytest.raises(TypeError, match=r"today must be a datetime\.datetime, got str"):
        encode(tokenizer, today="2024-07-26")


def test_variables_of_the_tokenizer(make_gpt):
    """Special tokens are what they are for transformers, whatever they are written with."""
    tokenizer = make_gpt(bos_token="<s>", pad_token="<|end|>")
    tokenizer.chat_template = "{{ [bos_token, eos_token, pad_token] | tojson }}"
    with ChatTemplate(tokenizer) as template:
        written = json.loads(template.render(TALK, 1))
    assert written == ["<s>", "<|endoftext|>", "<|end|>"]
