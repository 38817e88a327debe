"""Files that are almost right: what is wrong with them, and what to do, in one sentence."""

import json

import pytest

from dpjax.data import (
    DataSource,
    read_language_records,
    read_preferences,
    read_records,
    read_tagged_words,
)

ANSWERS = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
MESSAGES = [
    {"role": "user", "content": "Is it open?"},
    {"role": "assistant", "content": "Until six.", "train": True},
]
ALMOST = {
    # What it is: (reader, name, content, what is said).
    "semicolons": (
        read_language_records,
        "a.csv",
        "prompt;completion\nq;a\n",
        "first line is separated by semicolons, but a .csv file by commas",
    ),
    "semicolons, labels": (
        read_records,
        "a.csv",
        "text;label\nq;a\n",
        "has no column 'text' and no column 'label': its first line is separated by semicolons",
    ),
    "commas in a TSV file": (
        read_records,
        "a.tsv",
        "text,label\nq,a\n",
        r"separated by commas, but a \.tsv file by tabs",
    ),
    "half of Alpaca": (
        read_language_records,
        "a.json",
        json.dumps([{"instruction": "i", "response": "o"}]),
        r"For instruction_output there is no column 'output'\. Rename a column\.$",
    ),
    "lists in CSV": (
        read_tagged_words,
        "a.csv",
        "tokens,tags\n\"['Ada']\",\"['O']\"\n",
        r"words and tags are lists, which a \.csv file cannot hold; write one JSON object",
    ),
    "a header with other names": (
        read_tagged_words,
        "a.tsv",
        "Word\tTag\nAda\tB-PER\n\nmet\tO\n",
        "line 1 looks like a header; name its columns, words_column='Word' and tags_column='Tag'",
    ),
    "ends of lines of old Macs": (
        read_tagged_words,
        "a.conll",
        "Ada B-PER\rmet O\r",
        "line 1: a carriage return inside the line; end lines by line feeds",
    ),
    "a key of another tool": (
        read_language_records,
        "a.jsonl",
        json.dumps({"messages": MESSAGES}),
        "with the key 'train', and read are role, content, .* and weight; take it out",
    ),
    "a prompt that is a text": (
        read_preferences,
        "a.jsonl",
        json.dumps({"prompt": "Is it open?"} | ANSWERS),
        "a prompt that is a text, beside answers that are messages without it",
    ),
    "pairs for another task": (
        read_language_records,
        "a.jsonl",
        json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}),
        r"Files with these columns are for task=preference\.$",
    ),
    "messages for another task": (
        read_records,
        "a.jsonl",
        json.dumps({"messages": MESSAGES}),
        r"its columns: 'messages'\. Files with these columns are for task=causal_lm\.$",
    ),
    "words for another task": (
        read_records,
        "a.conll",
        "Ada B-PER\n",
        "files with a word on each line are for task=token_classification$",
    ),
}


@pytest.mark.parametrize("case", ALMOST)
def test_almost_right(tmp_path, case):
    read, name, content, message = ALMOST[case]
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(ValueError, match=message):
        read(DataSource(str(tmp_path / name)))


def test_a_word_that_is_called_word(tmp_path):
    """Its tag is that of other words: it is no header."""
    path = tmp_path / "a.tsv"
    path.write_text("Word\tO\nAda\tB-PER\n\nmet\tO\n")
    assert read_tagged_words(DataSource(str(path))).words == [["Word", "Ada"], ["met"]]
