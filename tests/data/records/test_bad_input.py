"""Every way a source can be wrong has its own message, and no message quotes a private text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dpjax.data import DataSource, read_records

SECRET = "jane doe of 4 high street takes insulin every single day"


def read(path: Path, **options: object) -> None:
    read_records(DataSource(str(path), **options))


BAD_CONTENT = {
    # name of the case: (file name, content, options, part of the message)
    "empty file": ("a.csv", b"", {}, r"a\.csv is empty \(0 bytes\)"),
    "empty parquet file": ("a.parquet", b"", {}, r"is empty \(0 bytes\)"),
    "blank lines only": ("a.csv", b"\n\n", {}, "holds no records"),
    "header only": ("a.csv", b"text,label\n", {}, "holds no records"),
    "no JSON lines": ("a.jsonl", b"\n\n", {}, "holds no records"),
    "unknown extension": (
        "a.txt",
        b"text,label\n",
        {},
        r"extension '\.txt' is unknown; known are \.csv, \.tsv, \.jsonl, \.json, \.parquet",
    ),
    "missing label column": (
        "a.csv",
        b"text,labels\na,1\n",
        {},
        r"no column 'label'; its columns: 'text', 'labels'\. Did you mean label_column='labels'\?",
    ),
    "missing text column": (
        "a.csv",
        b"sentence,label\na,1\n",
        {},
        r"no column 'text'; its columns: 'sentence', 'label'\. Set text_column",
    ),
    "both columns missing": (
        "a.csv",
        b"texts,kind\na,1\n",
        {},
        r"its columns: 'texts', 'kind'\. Did you mean text_column='texts'\?.*no header line",
    ),
    "no header line": (
        "a.tsv",
        f"{SECRET}\t1\n".encode(),
        {},
        "does not look like a header.*no header line.*column_names=text,label",
    ),
    "no header line, options named": (
        "a.csv",
        b"fine film,1\n",
        {"text_column": "review", "label_column": "stars"},
        "column_names=review,stars",
    ),
    "wrong separator": (
        "a.tsv",
        b"review;stars\na;1\n",
        {},
        "separated by semicolons, but a .tsv file by tabs",
    ),
    "header line and column_names": (
        "a.tsv",
        b"text\tlabel\na\t1\n",
        {"column_names": ("text", "label")},
        "line 1 repeats column_names.*leave column_names out",
    ),
    "column_names lacks the text": (
        "a.tsv",
        b"a\t1\n",
        {"column_names": ("txt", "label")},
        r"column_names of .* has no column 'text'.*Did you mean text_column='txt'",
    ),
    "column_names too short": (
        "a.tsv",
        b"7\ta\t1\n",
        {"column_names": ("text", "label")},
        r"line 1: 3 field\(s\), but column_names has 2",
    ),
    "column_names for JSON": (
        "a.jsonl",
        b'{"text": "a", "label": 1}',
        {"column_names": ("text", "label")},
        r"column_names is for \.csv and \.tsv",
    ),
    "column twice": ("a.csv", b"text,label,text\na,1,b\n", {}, "'text' occurs more than once"),
    "same column for both": (
        "a.csv",
        b"text,label\na,1\n",
        {"label_column": "text"},
        "text_column and label_column are both 'text'",
    ),
    "unquoted comma in the first record": (
        "a.csv",
        f"text,label\n{SECRET}, yes,1\n".encode(),
        {},
        r"line 2: 3 field\(s\), but the header line has 2; quote texts that hold a comma",
    ),
    "short record": (
        "a.csv",
        b'text,label\n"two\nlines",1\nb\n',
        {},
        r"line 4: 1 field\(s\), but the header line has 2",
    ),
    "tab in a text": ("a.tsv", b"text\tlabel\na\tb\t1\n", {}, "line 2: 3 .* must not hold a tab"),
    "unclosed quote": (
        "a.csv",
        f'text,label\na,1\n"{SECRET},0\nc,1\n'.encode(),
        {},
        "record that starts in line 3: unexpected end of data.*quotes doubled",
    ),
    "stray quote": (
        "a.csv",
        f'text,label\n"no" {SECRET},0\n'.encode(),
        {},
        "record that starts in line 2: .*expected.*quotes doubled",
    ),
    "not UTF-8": (
        "a.csv",
        f"text,label\ncaf\xe9 {SECRET},1\n".encode("latin-1"),
        {},
        r"not UTF-8 text \(byte 0xe9.*iconv",
    ),
    "malformed JSON": (
        "a.jsonl",
        f'{{"text": "a", "label": 1}}\n\n{{"text": "{SECRET}", "label": }}\n'.encode(),
        {},
        r"a\.jsonl, line 3: malformed JSON at column \d+",
    ),
    "JSON array on one line": ("a.jsonl", b'[{"text": "a", "label": 1}]', {}, "holds a JSON array"),
    "JSON array on lines": ("a.jsonl", b'[\n{"text": "a"}\n]', {}, "holds a JSON array.*jq"),
    "text in a JSON list": (
        "a.json",
        b'[{"text": "a", "label": 1}, "' + SECRET.encode() + b'"]',
        {},
        "record 2 holds a str, not an object",
    ),
    "JSON list that does not end": (
        "a.json",
        b'\n[{"text": "' + SECRET.encode() + b'", "label": 1},\n{"text": 2',
        {},
        r"line 3: malformed JSON at column \d+: .*; one complete list is needed",
    ),
    "lists on two lines": (
        "a.json",
        b"[{}]\n[{}]",
        {},
        "line 2: malformed JSON at column 1: Extra",
    ),
    "empty JSON list": ("a.json", b"[]", {}, "holds no records"),
    "name twice in a JSON list": (
        "a.json",
        b'[{"text": "a",\n"text": "b"}]',
        {},
        "a.json: an object has a name twice",
    ),
    "records of a JSON list": (
        "a.json",
        b'[{"text": "a", "label": 1},\n\n{"text": "", "label": 1}]',
        {},
        r"1 record with text missing or empty \(record 2\)",
    ),
    "no gzip": ("a.csv.gz", b"text,label\na,1\n", {}, "no whole gzip file .BadGzipFile.*once more"),
    "half of a gzip file": (
        "a.jsonl.gz",
        gzip.compress(json.dumps({"text": SECRET * 99, "label": 1}).encode())[:-9],
        {},
        "no whole gzip file .EOFError",
    ),
    "damaged gzip": (
        "a.jsonl.gz",
        gzip.compress(b"text")[:12] + b"xxxxxxxxxxxxxxxxxxxxx",
        {},
        "no whole gzip file",
    ),
    "gzip of gzip": ("a.tsv.gz", gzip.compress(gzip.compress(b"text")), {}, "is a compressed file"),
    "Latin 1 in gzip": (
        "a.csv.gz",
        gzip.compress(b"text,label\n\xe9,1\n"),
        {},
        "line 2 is not UTF-8",
    ),
    "Parquet in gzip": (
        "a.parquet.gz",
        b"PAR1",
        {},
        "Parquet compresses inside the file; unpack it",
    ),
    "what gzip holds": ("a.txt.gz", b"text", {}, r"extension '\.txt' is unknown"),
    "split of a file": (
        "a.csv",
        b"text,label\na,1\n",
        {"split": "test"},
        "is a file, got split='test'",
    ),
    "JSON string": ("a.jsonl", f'"{SECRET}"\n'.encode(), {}, "line 1 holds a str, not an object"),
    "JSON without the column": (
        "a.jsonl",
        b'{"text": "a", "Label": 1}\n',
        {},
        r"no column 'label'; its columns: 'text', 'Label'\. Did you mean label_column='Label'",
    ),
    "not Parquet": ("a.parquet", b"text,label\na,1\n", {}, "not a readable Parquet file"),
    "missing texts": (
        "a.csv",
        b"text,label\na,1\n,1\n  ,0\n",
        {},
        r"2 records with text missing or empty \(lines 3, 4\)",
    ),
    "many missing labels": (
        "a.csv",
        b"text,label\n" + b"a,\n" * 9,
        {},
        r"9 records with label missing or empty \(lines 2, 3, 4, 5, 6, …\)",
    ),
    "both missing": (
        "a.jsonl",
        b'{"text": "a", "label": null}\n{"label": 1}\n{"text": "a", "label": NaN}\n',
        {},
        r"2 records with label missing or empty \(lines 1, 3\); "
        r"1 record with text missing or empty \(line 2\)",
    ),
    "number as text": (
        "a.jsonl",
        b'{"text": 12, "label": 1}\n',
        {},
        r"1 record with text of type int instead of str \(line 1\)",
    ),
    "list as label": ("a.jsonl", b'{"text": "a", "label": [1]}\n', {}, "label of type list"),
    "score as label": ("a.jsonl", b'{"text": "a", "label": 0.7}\n', {}, "label of type float"),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"text": "a \\ud83d", "label": 1}\n',
        {},
        r"half a surrogate pair.*\(line 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_content(case, tmp_path):
    name, content, options, message = BAD_CONTENT[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name, **options)
    assert "insulin" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value) or case == "same column for both"


def test_missing_file_names_similar_ones(tmp_path, monkeypatch):
    for name in ("train.csv", "dev.csv", "notes.md"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        read(Path("trian.csv"))
    assert f"no file {tmp_path / 'trian.csv'}; similar names there: train.csv" in str(caught.value)
    assert "notes.md" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("xyz.parquet", "nothing there has a similar name"),
        ("there/train", "no file .*there/train; similar names there: train.csv"),
        ("absent/deeper/train.csv", "the folder .*absent/deeper does not exist"),
        ("./train", "no file .*train"),
        ("reviews.txt", "no file .*reviews.txt"),
        ("a/b/c", "no file .*a/b/c"),
    ],
)
def test_missing_paths_are_not_looked_up_on_the_hub(given, message, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "train.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dpjax.data.read.read.read_hub", pytest.fail)
    with pytest.raises(FileNotFoundError, match=message):
        read_records(DataSource(given))


def test_folder_of_files(tmp_path):
    (tmp_path / "train.csv").touch()
    with pytest.raises(ValueError, match=r"not one that .*save_to_disk wrote .*train\.csv"):
        read(tmp_path)


def test_parquet_without_the_column(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "labels": [1]}), path)
    with pytest.raises(ValueError, match="Did you mean label_column='labels'"):
        read(path)


def test_parquet_rows_are_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["a", "b", None], "label": [1.0, None, 0.0]})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(ValueError, match=r"label missing or empty \(row 2\).*empty \(row 3\)"):
        read(path)


def test_label_lines_are_those_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    records = [{"text": "a", "label": 1}, None, {"text": "b"}]
    path.write_text("\n".join("" if record is None else json.dumps(record) for record in records))
    with pytest.raises(ValueError, match=r"label missing or empty \(line 3\)"):
        read(path)
