"""JSON lists, files in gzip, and several files by a pattern."""

from __future__ import annotations

import gzip
import json

import pytest

from dpjax.data import (
    Completions,
    DataSource,
    Records,
    Texts,
    read_language_records,
    read_records,
)

ROWS = [{"text": f"film {n} ü\nlong", "label": str(n % 2)} for n in range(6)]
RECORDS = Records([row["text"] for row in ROWS], [row["label"] for row in ROWS])


def read(path, **options):
    return read_records(DataSource(str(path), **options))


def lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("before", ["", "\ufeff", " \n\n"])
def test_a_json_list(indent, before, tmp_path):
    written = before + json.dumps(ROWS, indent=indent, ensure_ascii=False)
    (tmp_path / "a.json").write_text(written, encoding="utf-8")
    assert read(tmp_path / "a.json") == RECORDS
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(written.encode()))
    assert read(tmp_path / "a.json.gz") == RECORDS


CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)
TSV = "text\tlabel\na b\t1\nc\t0\n"


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.csv.gz", CSV, RECORDS),
        ("A.JSONL.GZ", lines(ROWS), RECORDS),
        ("a.tsv.gz", TSV, Records(["a b", "c"], ["1", "0"])),
    ],
)
def test_gzip(name, content, records, tmp_path):
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert read(tmp_path / name) == records
    # No copy is left beside it.
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_pattern(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jsonl").write_text(lines(ROWS[3:5]))
    (tmp_path / "1.csv").write_text(CSV[: CSV.index('"film 3')])
    (tmp_path / "b" / "3.json.gz").write_bytes(gzip.compress(json.dumps(ROWS[5:]).encode()))
    (tmp_path / "b" / "blank.jsonl").write_text("\n\n")
    assert read(tmp_path / "**" / "*[!x]*.*") == RECORDS
    assert read(tmp_path / "*" / "?.*") == RECORDS.take(range(3, 6))
    assert read(tmp_path / "*.csv") == RECORDS.take(range(3))


def test_lines_of_a_pattern_are_named_with_their_files(tmp_path):
    (tmp_path / "1.jsonl").write_text(lines(ROWS))
    (tmp_path / "2.jsonl").write_text(lines([{"text": "a", "label": 1}, {"text": "", "label": 1}]))
    with pytest.raises(ValueError, match=r"text missing or empty \(place .*/2\.jsonl:2\)"):
        read(tmp_path / "*.jsonl")


def test_a_name_that_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].jsonl").write_text(lines(ROWS))
    (tmp_path / "a1.jsonl").write_text(lines(ROWS[:1]))
    assert read(tmp_path / "a[1].jsonl") == RECORDS


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("*.tsv", FileNotFoundError, r"no file matches .*/\*\.tsv"),
        ("*", ValueError, r"matches .*/folder, which is no file; use a narrower pattern"),
        ("[ab].*", ValueError, r"a\.jsonl has no column 'label'"),
        ("[cd].*", ValueError, r"/d\.txt: the extension '\.txt' is unknown"),
    ],
)
def test_patterns_that_cannot_be_read(pattern, error, message, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jsonl").write_text(lines([{"text": "a"}]))
    (tmp_path / "b.jsonl").write_text(lines(ROWS))
    (tmp_path / "c.jsonl").write_text(lines(ROWS))
    (tmp_path / "d.txt").write_text("a")
    with pytest.raises(error, match=message):
        read(tmp_path / pattern)


def test_files_of_two_formats(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines([{"text": "a"}]))
    (tmp_path / "b.jsonl").write_text(lines([{"prompt": "a", "completion": "b"}]))
    source = DataSource(str(tmp_path / "*.jsonl"))
    message = (
        r"a\.jsonl has the columns of text, but .*b\.jsonl those of prompt_completion; set record_f"
    )
    with pytest.raises(ValueError, match=message):
        read_language_records(source)
    (tmp_path / "b.jsonl").write_text("\n")
    assert read_language_records(source) == Texts(["a"])
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no records"):
        read_language_records(source)


def test_a_column_that_some_files_lack(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines([{"instruction": "a", "output": "b"}]))
    (tmp_path / "b.jsonl").write_text(lines([{"instruction": "a", "input": "c", "output": "b"}]))
    found = read_language_records(DataSource(str(tmp_path / "*.jsonl")))
    assert isinstance(found, Completions)
    assert ["\nc\n" in prompt for prompt in found.prompts] == [False, True]


def test_one_saved_split_has_no_other(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS, split="test").save_to_disk(tmp_path / "saved")
    datasets.enable_progress_bars()
    assert read(tmp_path / "saved") == read(tmp_path / "saved", split="test") == RECORDS
    with pytest.raises(ValueError, match="is one split, got split='validation'; leave it out"):
        read(tmp_path / "saved", split="validation")
