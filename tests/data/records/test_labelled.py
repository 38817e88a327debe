"""Every format gives the same records, value by value, and leaves nothing behind."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpjax.data import DataSource, Records, read_records

TEXTS = [
    'she said "no", then left',
    "NA",
    "null",
    "None",
    "nan",
    "2024-01-01",
    "12",
    "  spaces kept  ",
    "naïve café 你好 \U0001f600",
    '"quoted"',
    "line\u2028separator, next\x85line",
]
LABELS = ["1", "0", "1", "0", "1", "0", "1", "0", "1", "0", "0"]


def write_csv(path: Path, newline: str = "\n", encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, lineterminator=newline)
        writer.writerows([("text", "label"), *zip(TEXTS, LABELS, strict=True)])


def write_tsv(path: Path, header: bool = True, newline: str = "\n") -> None:
    lines = [f"{text}\t{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    content = newline.join((["text\tlabel"] if header else []) + lines)
    path.write_bytes(content.encode())


def write_jsonl(path: Path, label_type: type) -> None:
    lines = [
        json.dumps({"id": number, "label": label_type(label), "text": text})
        for number, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def write_parquet(path: Path, labels: list[object]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": labels}), path)


WRITERS = {
    "a.csv": write_csv,
    "windows.CSV": lambda path: write_csv(path, newline="\r\n"),
    "mark.csv": lambda path: write_csv(path, encoding="utf-8-sig"),
    "a.tsv": write_tsv,
    "windows.tsv": lambda path: write_tsv(path, newline="\r\n"),
    "int.jsonl": lambda path: write_jsonl(path, int),
    "str.jsonl": lambda path: write_jsonl(path, str),
    "float.json": lambda path: write_jsonl(path, float),
    "int.parquet": lambda path: write_parquet(path, [int(label) for label in LABELS]),
    "str.parquet": lambda path: write_parquet(path, LABELS),
    "float.parquet": lambda path: write_parquet(path, [float(label) for label in LABELS]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(name, tmp_path):
    WRITERS[name](tmp_path / name)
    assert read_records(DataSource(str(tmp_path / name))) == Records(TEXTS, LABELS)


def test_tsv_without_header(tmp_path):
    write_tsv(tmp_path / "a.tsv", header=False)
    source = DataSource(str(tmp_path / "a.tsv"), column_names=("text", "label"))
    assert read_records(source) == Records(TEXTS, LABELS)


def test_columns_by_name(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,kind, review \n1,good,fine film\n2,bad,poor film\n")
    source = DataSource(str(path), text_column="review", label_column="kind")
    assert read_records(source) == Records(["fine film", "poor film"], ["good", "bad"])


def test_csv_keeps_line_breaks_and_long_texts(tmp_path):
    path = tmp_path / "a.csv"
    long = "word " * 40_000
    limit = csv.field_size_limit()
    path.write_bytes(f'text,label\n"one\ntwo\r\nthree",0\n\n"{long}", 1 \n'.encode())
    assert read_records(DataSource(str(path))) == Records(["one\ntwo\r\nthree", long], ["0", "1"])
    assert csv.field_size_limit() == limit


def test_tsv_keeps_quotes_and_lone_carriage_returns(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text\tlabel\n"unclosed\t0\na\rb\t1\n')
    assert read_records(DataSource(str(path))) == Records(['"unclosed', "a\rb"], ["0", "1"])


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, "3"),
        (-1, "-1"),
        (2.0, "2"),
        ("2.0", "2"),
        ("2.5", "2.5"),
        ("01", "01"),
        (True, "True"),
        (" yes ", "yes"),
        ("v1.0", "v1.0"),
        (12345678901234567890, "12345678901234567890"),
    ],
)
def test_labels_become_strings(value, label, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "label": value}))
    assert read_records(DataSource(str(path))).labels == [label]


def test_mixed_json_labels_and_missing_keys_of_other_columns(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '\ufeff{"text": "a", "label": 1}\r\n{"text": "b", "label": "x", "extra": {"k": [1]}}\r\n',
        encoding="utf-8",
    )
    assert read_records(DataSource(str(path))) == Records(["a", "b"], ["1", "x"])


def test_split_at():
    first, rest = Records(["a", "b", "c"], ["0", "1", "0"]).split_at(2)
    assert (len(first), first.texts, rest.labels) == (2, ["a", "b"], ["0"])
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        rest.split_at(2)
    with pytest.raises(ValueError, match="1 texts, but 0 labels"):
        Records(["a"], [])


def test_nothing_is_left_in_any_cache(tmp_path):
    """Run apart: the caches of `datasets` are fixed when it is imported."""
    home = tmp_path / "home"
    home.mkdir()
    write_csv(tmp_path / "a.csv")
    write_jsonl(tmp_path / "a.jsonl", int)
    write_parquet(tmp_path / "a.parquet", LABELS)
    program = """
import sys
import datasets
from dpjax.data import DataSource, read_records
folder = sys.argv[1]
# Named and typed columns, so that the Parquet reader asks `datasets` for the class names.
features = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["0", "1"])}
)
table = {"text": ["a private text", "another"], "label": [0, 1]}
dataset = datasets.Dataset.from_dict(table, features=features)
datasets.disable_progress_bars()
dataset.save_to_disk(f"{folder}/saved")
dataset.to_parquet(f"{folder}/b.parquet")
for name in ("a.csv", "a.jsonl", "a.parquet", "b.parquet", "saved"):
    assert len(read_records(DataSource(f"{folder}/{name}"))) > 1
"""
    caches = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "TMPDIR")
    environment = os.environ | {name: str(home) for name in caches}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_importing_the_room_loads_nothing_heavy():
    program = (
        "import sys, dpjax; before = set(sys.modules); import dpjax.data; "
        "new = set(sys.modules) - before; "
        "print(*new & {'datasets', 'transformers', 'pandas', 'pyarrow', 'jax', 'torch'})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == []
