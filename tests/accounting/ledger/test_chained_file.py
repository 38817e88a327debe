"""Which changes of an append-only file are noticed, and what a crash may leave."""

import json
import shutil

import pytest
from dpjax_accounting import TamperedError
from dpjax_accounting.ledger.chained_file import ChainedFile, Head


@pytest.fixture
def file(tmp_path):
    chained = ChainedFile(tmp_path / "lines")
    chained.create({"first": 1})
    for number in (2, 3, 4):
        chained.append(lambda _, number=number: {"number": number})
    return chained


def lines_of(file):
    return file.path.read_bytes().splitlines(keepends=True)


def head_of(file):
    return file.path.with_name("lines.head")


def test_what_is_appended_is_read(file):
    assert file.read().records == ({"first": 1}, {"number": 2}, {"number": 3}, {"number": 4})
    assert file.append(lambda records: None).head.num_lines == 4
    assert file.path.stat().st_mode & 0o077 == 0


def test_it_only_grew_since_an_earlier_head(file):
    earlier = file.read().head
    file.append(lambda records: {"number": len(records) + 1})
    assert file.contains(earlier)
    assert not file.contains(Head(4, "0" * 64)) and not file.contains(Head(9, earlier.sha256))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"2", b"9"), *lines[2:]], "line 2"),
        (lambda lines: [lines[0], *lines[2:]], "line 2"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "line 2"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], "line 3"),
        (lambda lines: [lines[0], b" " + lines[1], *lines[2:]], "line 2"),
        (lambda lines: [*lines[:3], lines[3].replace(b"4", b"9")], "line 4"),
        (lambda lines: lines[:3], "truncated: it has 3 whole lines.*4 were written"),
        (lambda lines: [*lines[:3], lines[3][:-1]], "truncated"),
        (lambda lines: [], "truncated: it has 0"),
    ],
)
def test_changed_lines_are_noticed(file, change, message):
    file.path.write_bytes(b"".join(change(lines_of(file))))
    before = file.path.read_bytes()
    with pytest.raises(TamperedError, match=message):
        file.read()
    with pytest.raises(TamperedError, match=message):
        file.append(lambda records: {"number": 5})
    assert file.path.read_bytes() == before


def test_a_head_that_is_gone_or_changed_is_noticed(file):
    head = head_of(file).read_text()
    for text, message in [
        ("{}", "no head"),
        ("[", "no head"),
        (json.dumps({"num_lines": 0, "sha256": ""}), "no head"),
        (json.dumps({"num_lines": 4, "sha256": "0" * 64}), "line 4 is not the one"),
        (json.dumps({"num_lines": 2, "sha256": json.loads(lines_of(file)[1])["sha256"]}), "older"),
    ]:
        head_of(file).write_text(text)
        with pytest.raises(TamperedError, match=message):
            file.read()
    head_of(file).unlink()
    with pytest.raises(TamperedError, match="missing"):
        file.read()
    head_of(file).write_text(head)
    file.path.unlink()
    with pytest.raises(TamperedError, match="is gone"):
        file.read()
    with pytest.raises(FileExistsError):
        file.create({"first": 1})


@pytest.mark.parametrize("rest", [b'{"previous": "ab', b"\0\0\0\0", b"\0\0\n", b'{"a": 1}\n{"b"'])
def test_a_torn_last_line_is_told_from_tampering_and_dropped(file, rest):
    with file.path.open("ab") as stream:
        stream.write(rest)
    read = file.read()
    assert read.torn and read.head.num_lines == 4
    after = file.append(lambda records: {"number": 5})
    assert after.records[-1] == {"number": 5} and not after.torn


def test_a_line_whose_head_a_crash_prevented_is_kept(file):
    old_head = head_of(file).read_text()
    file.append(lambda records: {"number": 5})
    head_of(file).write_text(old_head)
    assert file.read().records[-1] == {"number": 5}
    file.append(lambda records: {"number": 6})
    assert [record.get("number") for record in file.read().records[-2:]] == [5, 6]


def test_a_creation_that_crashed_starts_again(file, tmp_path):
    other = ChainedFile(tmp_path / "other")
    other.create({"first": 1})
    other.path.unlink()
    assert not other.exists()
    other.create({"first": 2})
    assert other.read().records == ({"first": 2},)


def test_an_older_copy_of_both_files_is_noticed_by_a_head_kept_elsewhere(file, tmp_path):
    copies = [(path, tmp_path / f"{path.name}.old") for path in (file.path, head_of(file))]
    for path, copy in copies:
        shutil.copy(path, copy)
    file.append(lambda records: {"number": 5})
    published = file.read().head
    for path, copy in copies:
        shutil.copy(copy, path)
    assert not file.contains(published)
