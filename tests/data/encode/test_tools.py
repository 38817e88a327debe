"""Definitions of functions: read, given to the chat template, and never lost."""

from __future__ import annotations

import json

import pytest

from dpjax.data import (
    Completions,
    Conversations,
    DataSource,
    Preferences,
    RecordError,
    encode_language,
    encode_preferences,
    encode_prompts,
    read_language_records,
    read_preferences,
)
from tests.support.tiny_tokenizers import make_tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "film",
            "parameters": {"type": "object", "properties": {"a": {"default": None}}},
        },
    }
]
ASK = [{"role": "user", "content": "the film"}]
ANSWER = [{"role": "assistant", "content": "is good"}]
WORSE = [{"role": "assistant", "content": "is bad"}]
# As stock templates do: tools once at the top, each as JSON.
TEMPLATE = (
    "{% if tools is not none %}{{ 'tools:' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|turn|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
PLAIN = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def tokenizer_with(template):
    return make_tokenizer(chat_template=template, model_max_length=400)


def write(path, *records):
    path.write_text("\n".join(map(json.dumps, records)))
    return DataSource(str(path))


RECORDS = {
    "messages": {"messages": ASK + ANSWER},
    "conversations": {
        "conversations": [
            {"from": "human", "value": "the film"},
            {"from": "gpt", "value": "is good"},
        ]
    },
    "prompt_completion": {"prompt": ASK, "completion": ANSWER},
}


@pytest.mark.parametrize("template", [TEMPLATE, PLAIN], ids=["marks", "no marks"])
@pytest.mark.parametrize("form", RECORDS)
@pytest.mark.parametrize("given", [TOOLS, json.dumps(TOOLS)], ids=["list", "JSON"])
def test_the_template_is_given_them(tmp_path, form, given, template):
    """The very tokens of transformers; the assistant's part is what is learnt, as without."""
    tokenizer = tokenizer_with(template)
    source = write(
        tmp_path / "a.jsonl", RECORDS[form] | {"tools": given}, RECORDS[form] | {"tools": None}
    )
    records = read_language_records(source)
    data = encode_language(records, tokenizer, 400)
    for row, tools in enumerate((TOOLS, None)):
        theirs = tokenizer.apply_chat_template(ASK + ANSWER, tools=tools, tokenize=False)
        ids = data.input_ids[row][data.attention_mask[row]]
        assert tokenizer.decode(ids) == theirs
        learnt = tokenizer.decode(data.input_ids[row][data.loss_mask[row]])
        assert learnt.strip() == "is good<|end|>"
    prompts = encode_prompts(records, tokenizer, 400)
    theirs = tokenizer.apply_chat_template(
        ASK, tools=TOOLS, tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(prompts.input_ids[0][prompts.attention_mask[0]]) == theirs


def test_pairs_have_them(tmp_path):
    tokenizer = tokenizer_with(PLAIN)
    record = {"prompt": ASK, "chosen": ANSWER, "rejected": WORSE}
    records = read_preferences(write(tmp_path / "a.jsonl", record | {"tools": TOOLS}))
    data = encode_preferences(records, tokenizer, 400)
    for ids, mask, answer in (
        (data.input_ids, data.attention_mask, ANSWER),
        (data.rejected_ids, data.rejected_mask, WORSE),
    ):
        theirs = tokenizer.apply_chat_template(ASK + answer, tools=TOOLS, tokenize=False)
        assert tokenizer.decode(ids[mask]) == theirs


@pytest.mark.parametrize(
    "make",
    [
        lambda tools: Conversations([ASK + ANSWER] * 2, tools=tools),
        lambda tools: Completions([ASK] * 2, [ANSWER] * 2, tools=tools),
    ],
    ids=["conversations", "completions"],
)
def test_a_template_that_does_not_write_them(make):
    """Also one that mentions them, such as in a condition that is never true."""
    records = make([[], TOOLS])
    for template in (
        TEMPLATE.replace("tools is not none", "false"),
        PLAIN.replace("tools is not none", "tools and messages | length > 9"),
    ):
        with pytest.raises(RecordError, match=r"^record 2 has tools, which the chat template of"):
            encode_language(records, tokenizer_with(template), 400)


def test_they_are_a_part_of_the_record():
    same = Conversations([ASK + ANSWER] * 3, tools=[TOOLS, [], TOOLS])
    with_tools, without, again = same.units()
    assert with_tools == again != without
    # As before there were tools: a ledger knows the records again.
    assert [without] == list(Conversations([ASK + ANSWER]).units())
    assert same.take([1, 2]).tools == [[], TOOLS]
    assert same.take([1]).tools is None
    assert Preferences([ASK], [ANSWER], [WORSE], tools=[TOOLS]).answers("chosen").tools == [TOOLS]
    with pytest.raises(ValueError, match="1 tools, but 2 records"):
        Conversations([ASK + ANSWER] * 2, tools=[TOOLS])


BAD = {
    "film": "not JSON of a list of objects",
    '[{"a": 1, "a": 2}]': "not JSON of a list of objects",
    '{"name": "film"}': "tools that are not a list of objects",
    "[1]": "tools that are not a list of objects",
}


@pytest.mark.parametrize("given", BAD)
def test_bad_tools(tmp_path, given):
    source = write(tmp_path / "a.jsonl", RECORDS["messages"] | {"tools": given})
    with pytest.raises(ValueError, match=rf"column 'tools'.*{BAD[given]}.*\(line 1\)"):
        read_language_records(source)


def test_texts_have_none(tmp_path):
    record = {"prompt": "the film", "completion": "is good"}
    source = write(tmp_path / "a.jsonl", record | {"tools": TOOLS})
    with pytest.raises(ValueError, match="tools beside texts: only messages have a chat template"):
        read_language_records(source)
    assert read_language_records(write(tmp_path / "b.jsonl", record | {"tools": []})).tools is None


def test_parquet_fills_in_keys(tmp_path):
    """Arrow gives all objects of a column the same keys: those that are null are left out."""
    import pyarrow
    import pyarrow.parquet

    def tool(name):
        return {"name": "film", "parameters": {name: {"type": "string"}}}

    def call(name):
        function = {"name": "film", "arguments": {name: "x"}}
        return {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}

    rows = [{"messages": [*ASK, call(name)], "tools": [tool(name)]} for name in "ab"]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    records = read_language_records(DataSource(str(path)))
    assert records.tools == [[tool("a")], [tool("b")]]
    assert [talk[1] for talk in records.conversations] == [call("a"), call("b")]


def test_a_column_with_another_meaning_is_no_optional_one(tmp_path):
    """The answers of text pairs in a column called prompt are not their prompts."""
    source = write(tmp_path / "a.jsonl", {"prompt": "good", "rejected": "bad"})
    with pytest.raises(ValueError, match="no prompt, which answers that are texts need"):
        read_preferences(DataSource(source.path, chosen_column="prompt"))
