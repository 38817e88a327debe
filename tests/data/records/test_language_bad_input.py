"""Every way language records can be wrong has its own message, and none quotes a private text."""

from __future__ import annotations

import json

import pytest

from dpjax.data import DataSource, read_language_records

SECRET = "jane doe takes insulin every day"
USER = {"role": "user", "content": SECRET}
ASSISTANT = {"role": "assistant", "content": SECRET}


def lines(*records: object) -> str:
    return "\n".join(map(json.dumps, records))


BAD_CONTENT = {
    # name of the case: (file name, content, options, part of the message)
    "no column of any format": (
        "a.jsonl",
        lines({"body": SECRET}),
        {},
        r"no format: text \('text'\) or prompt_completion \('prompt' and 'completion'\) or "
        r"messages \('messages'\) or conversations \('conversations'\) or instruction_output "
        r"\('instruction' and 'output'\); its columns: 'body'\. Set text_column",
    ),
    "misspelt column": (
        "a.jsonl",
        lines({"message": [USER]}),
        {},
        r"Did you mean messages_column='message'\?",
    ),
    "one of two columns misspelt": (
        "a.csv",
        f"prompt,completions,texts\na,{SECRET},b\n",
        {},
        r"Did you mean completion_column='completions'\?",
    ),
    "column of the format that was asked for": (
        "a.csv",
        f"prompt,completions\na,{SECRET}\n",
        {"record_format": "prompt_completion"},
        r"no column 'completion'; its columns: .*Did you mean completion_column='completions'\?",
    ),
    "text asked for, but messages there": (
        "a.jsonl",
        lines({"messages": [USER]}),
        {"record_format": "text"},
        r"no column 'text'; its columns: 'messages'\. Set text_column",
    ),
    "same column for both": (
        "a.csv",
        "prompt,completion\na,b\n",
        {"completion_column": "prompt"},
        "prompt_column and completion_column are both 'prompt'",
    ),
    "messages in CSV": (
        "a.csv",
        f'messages\n"[{{""role"": ""user"", ""content"": ""{SECRET}""}}]"\n',
        {},
        r"messages are lists of objects, which a \.csv file cannot hold",
    ),
    "one column without a header": (
        "a.csv",
        "takes insulin\n",
        {},
        r"only column is called otherwise\. Set text_column\. If .*column_names=text ",
    ),
    "two columns without a header": (
        "a.tsv",
        f"{SECRET}, and so on for more words\tyes\n",
        {},
        "does not look like a header.*column_names=prompt,completion",
    ),
    "empty texts": (
        "a.csv",
        "id,text\n1,a\n2,\n3,  \n",
        {},
        r"text_column='text'\): 2 records with text missing or empty \(lines 3, 4\)",
    ),
    "empty prompt and completion": (
        "a.jsonl",
        lines({"prompt": "", "completion": SECRET}, {"prompt": SECRET}),
        {},
        r"1 record with prompt missing or empty \(line 1\); "
        r"1 record with completion missing or empty \(line 2\)",
    ),
    "number as completion": (
        "a.jsonl",
        lines({"prompt": SECRET, "completion": 3}),
        {},
        "completion of type int instead of str",
    ),
    "messages as text": (
        "a.jsonl",
        lines({"text": [USER]}),
        {},
        "text of type list instead of str",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        lines({"prompt": "\ud83d", "completion": SECRET}),
        {},
        "prompt with half a surrogate pair",
    ),
    "half a surrogate pair in a message": (
        "a.jsonl",
        lines({"messages": [{"role": "user", "content": f"{SECRET}\ud83d"}]}),
        {},
        "a message in messages with half a surrogate pair",
    ),
    "text as messages": (
        "a.jsonl",
        lines({"messages": SECRET}),
        {},
        "messages of type str instead of a list of messages",
    ),
    "no messages": (
        "a.jsonl",
        lines({"messages": [USER]}, {"messages": []}, {"messages": None}),
        {},
        r"2 records with messages missing or empty \(lines 2, 3\)",
    ),
    "message as text": (
        "a.jsonl",
        lines({"messages": [SECRET]}),
        {},
        "a message in messages that is of type str",
    ),
    "message without role": (
        "a.jsonl",
        lines({"messages": [{"content": SECRET}]}),
        {},
        "a message in messages whose role is missing",
    ),
    "part without a type": (
        "a.jsonl",
        lines({"messages": [USER | {"content": [{"text": SECRET}]}]}),
        {},
        "a message in messages whose content has a part that is no text",
    ),
    "part that is an image": (
        "a.jsonl",
        lines({"messages": [USER | {"content": [{"type": "image_url", "image_url": SECRET}]}]}),
        {},
        "whose content has a part that is no text; only text is learnt",
    ),
    "text part with more": (
        "a.jsonl",
        lines({"messages": [USER | {"content": [{"type": "text", "text": SECRET, "x": 1}]}]}),
        {},
        "whose content has a text part with something other than its text",
    ),
    "number as content": (
        "a.jsonl",
        lines({"messages": [USER | {"content": 3}]}),
        {},
        "whose content is missing or not a string",
    ),
    "unknown key": (
        "a.jsonl",
        lines({"messages": [USER | {"refusal": SECRET}]}),
        {},
        "a message in messages with the key .refusal., and read are role, content, .* and weight",
    ),
    "tool call that is no object": (
        "a.jsonl",
        lines({"messages": [ASSISTANT | {"tool_calls": [SECRET]}]}),
        {},
        "a message in messages whose tool_calls are not a list of objects",
    ),
    "tool call of the user": (
        "a.jsonl",
        lines({"messages": [USER | {"tool_calls": [{}]}]}),
        {},
        "with tool_calls, but another role than assistant",
    ),
    "half a surrogate pair in a tool call": (
        "a.jsonl",
        lines({"messages": [ASSISTANT | {"tool_calls": [{"function": {SECRET: "\ud83d"}}]}]}),
        {},
        "with half a surrogate pair",
    ),
    "reasoning that is no text": (
        "a.jsonl",
        lines({"messages": [ASSISTANT | {"reasoning_content": [SECRET]}]}),
        {},
        "whose reasoning_content is not a string",
    ),
    "weight between": (
        "a.jsonl",
        lines({"messages": [ASSISTANT | {"weight": 0.5}]}),
        {},
        "whose weight is neither 0 nor 1",
    ),
    "weight that is text": (
        "a.jsonl",
        lines({"messages": [ASSISTANT | {"weight": "1"}]}),
        {},
        "whose weight is neither 0 nor 1",
    ),
    "weight of the user": (
        "a.jsonl",
        lines({"messages": [USER | {"weight": 1}]}),
        {},
        "of weight 1, but another role than assistant: only the assistant",
    ),
    "weight in a completion": (
        "a.jsonl",
        lines({"prompt": [USER], "completion": [ASSISTANT | {"weight": 0}]}),
        {},
        "a message with a weight: of prompts and completions the completion is learnt",
    ),
    "from beside content": (
        "a.jsonl",
        lines({"messages": [{"from": "user", "content": SECRET}]}),
        {},
        "a message in messages with from or value beside role or content",
    ),
    "from somebody unknown": (
        "a.jsonl",
        lines({"conversations": [{"from": SECRET, "value": "a"}]}),
        {},
        r"\(column 'conversations'\): .* in conversations whose from is none of system, human,",
    ),
    "value that is missing": (
        "a.jsonl",
        lines({"conversations": [{"from": "human"}]}),
        {},
        "a message in conversations whose content is missing or not a string",
    ),
    "conversations that are text": (
        "a.jsonl",
        lines({"conversations": SECRET}),
        {},
        "conversations of type str instead of a list of messages",
    ),
    "conversations in TSV": (
        "a.tsv",
        f"conversations\n{SECRET}\n",
        {},
        r"messages are lists of objects, which a \.tsv file cannot hold",
    ),
    "messages and conversations": (
        "a.jsonl",
        lines({"messages": [USER], "conversations": [USER]}),
        {},
        "columns of 2 formats, .*; set record_format to one of 'messages', 'conversations'",
    ),
    "instruction that is missing": (
        "a.jsonl",
        lines({"output": SECRET, "instruction": None}),
        {},
        r"\(column 'instruction', column 'output'\): 1 record with instruction missing or empty",
    ),
    "input that is no text": (
        "a.jsonl",
        lines({"output": SECRET, "instruction": SECRET, "input": [SECRET]}),
        {},
        "1 record with input of type list instead of str",
    ),
    "output asked for, but not there": (
        "a.csv",
        "instruction,outputs\na,b\n",
        {"record_format": "instruction_output"},
        r"has no column 'output'; its columns: 'instruction', 'outputs'\. Rename the column",
    ),
    "empty message": (
        "a.jsonl",
        lines({"messages": [USER, {"role": "assistant", "content": " "}]}),
        {},
        "a message in messages whose content is empty",
    ),
    "empty role": (
        "a.jsonl",
        lines({"messages": [{"role": "", "content": SECRET}]}),
        {},
        "whose role is empty",
    ),
    "text and messages in one record": (
        "a.jsonl",
        lines({"prompt": SECRET, "completion": [ASSISTANT]}),
        {},
        "completion of another kind than the prompt",
    ),
    "completion by the user": (
        "a.jsonl",
        lines({"prompt": [USER], "completion": [ASSISTANT, USER]}),
        {},
        "a completion message whose role is not assistant",
    ),
    "nothing in a prompt's message": (
        "a.jsonl",
        lines({"prompt": [{"role": "user"}], "completion": [ASSISTANT]}),
        {},
        "a message in prompt whose content is missing",
    ),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_content(case, tmp_path):
    name, content, options, message = BAD_CONTENT[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_language_records(DataSource(str(tmp_path / name), **options))
    assert "insulin" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value) or case == "same column for both"
