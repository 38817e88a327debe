"""Messages as people have them: OpenAI's, ShareGPT's and Alpaca's files."""

from __future__ import annotations

import json

import pytest

from dpjax.audit import lowercase_records
from dpjax.audit.scores.record_texts import target_texts
from dpjax.data import (
    Completions,
    Conversations,
    DataSource,
    find_prompts,
    is_learnt,
    read_language_records,
)

ASK = {"role": "user", "content": "Is it open?"}
ANSWER = {"role": "assistant", "content": "Until six."}
CALL = {"id": "1", "type": "function", "function": {"name": "hours", "arguments": {"day": None}}}


def read(tmp_path, *records, **options):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return read_language_records(DataSource(str(path), **options))


def read_one(tmp_path, *messages):
    return read(tmp_path, {"messages": list(messages)}).conversations[0]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (ANSWER | {"tool_calls": []}, ANSWER),
        (ANSWER | {"tool_calls": None, "name": None, "refusal": None}, ANSWER),
        ({"role": "assistant", "tool_calls": [CALL]}, {"content": None, "tool_calls": [CALL]}),
        (ANSWER | {"content": "", "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL]}),
        # What a Parquet file fills in is left out; what a tool is called with stays.
        (ANSWER | {"tool_calls": [CALL | {"index": None}]}, {"tool_calls": [CALL]}),
        (ANSWER | {"reasoning_content": "Hm."}, {"reasoning_content": "Hm."}),
        (ANSWER | {"weight": 1.0}, {"weight": 1}),
        (ANSWER | {"weight": False}, {"weight": 0}),
        (ANSWER | {"content": [{"type": "text", "text": "Until six."}]}, {}),
        (
            ANSWER
            | {
                "content": [
                    {"type": "text", "text": "Until "},
                    {"type": "text", "text": "six.", "image_url": None},
                ]
            },
            {},
        ),
        (
            {"role": "tool", "content": "", "tool_call_id": "1"},
            {"role": "tool", "content": "", "tool_call_id": "1"},
        ),
        ({"role": "developer", "content": ""}, {"role": "developer", "content": ""}),
    ],
)
def test_what_is_kept(given, read, tmp_path):
    assert read_one(tmp_path, ASK, given) == [ASK, ANSWER | read]


def test_what_is_learnt():
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    messages = [
        ASK,
        ANSWER,
        ANSWER | {"weight": 0},
        call,
        call | {"weight": 1},
        ASK | {"weight": 0},
    ]
    assert list(map(is_learnt, messages)) == [False, True, False, False, True, False]
    records = Conversations([messages])
    assert target_texts(records) == ["Until six.\n"]
    (lowered,) = lowercase_records(records).conversations
    assert lowered[1]["content"] == "until six."
    assert lowered[3] == call


def test_prompts_are_those_of_what_is_learnt():
    records = Conversations([[ASK, ANSWER, ASK, ANSWER | {"weight": 0}, ASK]])
    (prompt,) = find_prompts(records)
    assert (prompt.content, prompt.answer) == ([ASK], [ANSWER])
    (prompt,) = find_prompts(Conversations([[ASK, ANSWER | {"weight": 0}]]))
    assert prompt.content == [ASK]


def test_a_ledger_knows_records_by_what_is_said():
    plain = Conversations([[ASK, ANSWER]], owners=["ann"])
    weighted = Conversations([[ASK, ANSWER | {"weight": 0}]])
    assert list(plain.units()) == list(weighted.units())
    named = Conversations([[ASK, ANSWER | {"name": "bo"}]])
    assert list(plain.units()) != list(named.units())


def test_share_gpt(tmp_path):
    talk = [
        {"from": "system", "value": "Be short."},
        {"from": "human", "value": "Is it open?"},
        {"from": "gpt", "value": "Until six.", "weight": 0, "markdown": None},
        {"from": "observation", "value": "18:00"},
        {"from": "gpt", "value": "Until six."},
    ]
    expected = Conversations(
        [
            [
                {"role": "system", "content": "Be short."},
                ASK,
                ANSWER | {"weight": 0},
                {"role": "tool", "content": "18:00"},
                ANSWER,
            ]
        ]
    )
    found = read(tmp_path, {"id": "a", "conversations": talk})
    assert found == expected
    # A run keeps how its file is read.
    assert (found.record_format, found.take([0]).record_format) == ("conversations",) * 2
    again = read(tmp_path, {"chat": talk}, messages_column="chat", owner_column=None)
    assert (again, again.record_format) == (expected, "messages")
    assert read(tmp_path, {"conversations": [ASK, ANSWER]}) == Conversations([[ASK, ANSWER]])


def test_alpaca(tmp_path):
    rows = [
        {"instruction": "Add them.", "input": "1, 2", "output": "3"},
        {"instruction": "Say hello.", "input": " ", "output": "Hello."},
        {"instruction": "Say hello.", "output": "Hello."},
    ]
    found = read(tmp_path, *rows)
    hello = "### Instruction:\nSay hello.\n\n### Response:\n"
    assert found == Completions(
        ["### Instruction:\nAdd them.\n\n### Input:\n1, 2\n\n### Response:\n", hello, hello],
        ["3", "Hello.", "Hello."],
    )
    assert found.record_format == "instruction_output"
    without = read(tmp_path, {"instruction": "Say hello.", "output": "Hello.", "by": 7})
    assert without == found.take([2])
    owned = read(tmp_path, *(row | {"who": "ann"} for row in rows), owner_column="who")
    assert (owned.prompts, owned.owners) == (found.prompts, ["ann"] * 3)
