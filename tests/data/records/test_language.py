"""Texts, prompts with completions and conversations, from every format that holds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpjax.data import (
    Completions,
    Conversations,
    DataSource,
    Records,
    Texts,
    read_language_records,
)
from dpjax.finetuning.setup.owners import identity_of

TEXTS = ["NA", "2024-01-01", 'she said "no"', "  spaces kept ", "naïve 你好", "12"]
ASK = [{"role": "system", "content": ""}, {"role": "user", "content": "is it good?"}]
ANSWER = [{"role": "assistant", "content": "it is good"}]
THANKS = [{"role": "user", "content": "thanks"}]

KINDS = {
    # name: (columns of the file, records)
    "text": ({"text": TEXTS}, Texts(TEXTS)),
    "prompt_completion": (
        {"prompt": TEXTS, "completion": TEXTS[::-1]},
        Completions(TEXTS, TEXTS[::-1]),
    ),
    "messages": (
        {"messages": [ASK + ANSWER, ASK + ANSWER + THANKS]},
        Conversations([ASK + ANSWER, ASK + ANSWER + THANKS]),
    ),
    "prompt_completion of messages": (
        {"prompt": [ASK, THANKS], "completion": [ANSWER, ANSWER]},
        Completions([ASK, THANKS], [ANSWER, ANSWER]),
    ),
}


def rows_of(columns):
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write_csv(path: Path, columns) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows_of(columns))


def write_tsv(path: Path, columns) -> None:
    lines = ["\t".join(columns), *("\t".join(row.values()) for row in rows_of(columns))]
    path.write_text("\n".join(lines), encoding="utf-8")


def write_jsonl(path: Path, columns) -> None:
    path.write_text("\n".join(map(json.dumps, rows_of(columns))), encoding="utf-8")


def write_parquet(path: Path, columns) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_saved(path: Path, columns) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns).save_to_disk(path)
    datasets.enable_progress_bars()


WRITERS = {
    "a.csv": write_csv,
    "a.tsv": write_tsv,
    "a.jsonl": write_jsonl,
    "a.parquet": write_parquet,
    "saved": write_saved,
}


def read(path: Path, **options: object):
    return read_language_records(DataSource(str(path), **options))


@pytest.mark.parametrize(
    ("kind", "name"),
    # Comma- and tab-separated files hold no lists.
    [(k, n) for k in KINDS for n in WRITERS if not ("messages" in k and n in ("a.csv", "a.tsv"))],
)
def test_every_format_gives_the_same_records(kind, name, tmp_path):
    columns, expected = KINDS[kind]
    # A label or a number beside it does not matter.
    beside = {"id": [str(row) for row in range(len(expected))]}
    WRITERS[name](tmp_path / name, beside | columns)
    assert read(tmp_path / name) == expected
    assert read(tmp_path / name, record_format=kind.split()[0]) == expected


def test_hub_dataset(monkeypatch, tmp_path):
    import datasets

    columns, expected = KINDS["messages"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, *, split: datasets.Dataset.from_dict(columns)
    )
    assert read(Path("owner/chats")) == expected


def test_columns_by_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("mr,ref\nname[X],X is a place\n")
    assert read(path, prompt_column="mr", completion_column="ref") == Completions(
        ["name[X]"], ["X is a place"]
    )
    assert read(path, text_column="ref") == Texts(["X is a place"])
    path.write_text("name[X],X is a place\n")
    assert read(path, column_names=("prompt", "completion")) == Completions(
        ["name[X]"], ["X is a place"]
    )


def test_labels_are_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    assert read(path) == Texts(["a", "b"])


def test_two_formats_need_the_option(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"prompt": "p", "completion": "c", "text": "pc"}
    path.write_text(json.dumps(row))
    message = (
        r"columns of 2 formats, text \('text'\) and prompt_completion \('prompt' and "
        r"'completion'\); set record_format to one of 'text', 'prompt_completion'"
    )
    with pytest.raises(ValueError, match=message):
        read(path)
    assert read(path, record_format="text") == Texts(["pc"])
    assert read(path, record_format="prompt_completion") == Completions(["p"], ["c"])


def test_half_a_format_is_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "p", "messages": ASK + ANSWER}))
    assert read(path) == Conversations([ASK + ANSWER])


def test_unknown_format():
    with pytest.raises(ValueError, match=r"got 'mesages'\. Did you mean 'messages'\?"):
        DataSource("a.jsonl", record_format="mesages")


def test_keys_that_are_null_are_dropped(tmp_path):
    message = {"content": "hello", "tool_calls": None, "role": "user"}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [message]}))
    assert read(tmp_path / "a.jsonl") == Conversations([[{"role": "user", "content": "hello"}]])


def test_split_at_and_lengths():
    first, rest = Completions(["a", "b"], ["c", "d"]).split_at(1)
    assert (first, rest) == (Completions(["a"], ["c"]), Completions(["b"], ["d"]))
    with pytest.raises(ValueError, match="2 prompts, but 1 completions"):
        Completions(["a", "b"], ["c"])


def test_identity_is_that_of_the_contents():
    turned = [[{"content": m["content"], "role": m["role"]} for m in ASK + ANSWER]]
    assert identity_of(Conversations([ASK + ANSWER])) == identity_of(Conversations(turned))
    assert identity_of(Texts(["a", "b"])) == identity_of(Texts(["b", "a"]))
    identities = [
        identity_of(records).sha256
        for records in (
            Texts(["ab"]),
            Completions(["a"], ["b"]),
            Completions(["b"], ["a"]),
            Completions([ASK], [ANSWER]),
            Conversations([ASK + ANSWER]),
            Conversations([ANSWER + ASK]),
        )
    ]
    assert len(set(identities)) == len(identities)
    # The bytes by which ledgers know labelled texts must not change.
    assert list(Records(["a é"], ["1"]).units()) == [b'["a \\u00e9", "1"]']
