"""Whatever is wrong with the bytes of a source, one sentence says so and names the file."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import shutil

import pytest

from dpjax.data import DataSource, Records, read_language_records, read_records

ROWS = [{"text": f"film {n} ü", "label": n % 2, "messages": [{"role": "user"}]} for n in range(20)]
RECORDS = Records([row["text"] for row in ROWS], [str(row["label"]) for row in ROWS])


def read(path, **options):
    return read_records(DataSource(str(path), **options))


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1500


CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
TSV = CSV.replace(",", "\t")
JSON_LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
TEXTS = {"a.csv": CSV, "a.tsv": TSV, "a.jsonl": JSON_LINES}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
    ],
)
def test_wide_encodings(name, encoding, said, tmp_path):
    (tmp_path / name).write_bytes(TEXTS[name].encode(encoding))
    refused(tmp_path / name, rf"is {said} text, not UTF-8; convert it.*`iconv -f {said} -t UTF-8`")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_compressed_file_is_told_from_text(name, compress, tmp_path):
    (tmp_path / name).write_bytes(compress(TEXTS[name].encode()))
    refused(tmp_path / name, "is a compressed file, not text; unpack it first")


@pytest.mark.parametrize("name", TEXTS)
def test_a_byte_order_mark_is_dropped(name, tmp_path):
    (tmp_path / name).write_bytes(TEXTS[name].encode("utf-8-sig"))
    assert read(tmp_path / name) == RECORDS
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf")
    refused(tmp_path / name, "holds no records")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"\0", "line 6: a byte that is zero"),
        (b"\xff", "line 6 is not UTF-8 .*0xff"),
        # Half a surrogate pair in UTF-8, and half a character.
        (b"\xed\xa0\xbd", "line 6 is not UTF-8"),
        (b"\xc3", "line 6 is not UTF-8"),
    ],
)
def test_bytes_that_are_no_text(name, damage, said, tmp_path):
    lines = TEXTS[name].encode().splitlines(keepends=True)
    lines[5] = lines[5].replace(b"film", b"fi" + damage)
    (tmp_path / name).write_bytes(b"".join(lines))
    refused(tmp_path / name, said)
    lines[5:] = [lines[5][: lines[5].index(damage) + 1]]
    (tmp_path / name).write_bytes(b"".join(lines))
    refused(tmp_path / name, "line 6")


JSON = {
    "nested lists": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "nested objects": ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
    "opened lists": ("[" * 100_000, "nested too deeply"),
    "a long integer": ("1" * 5000, r"an integer of more than \d+ digits"),
    "a long negative integer": ("[{}, -" + "1" * 5000 + "]", r"an integer of more than \d+ digits"),
    "a name twice": ('{"a": 1, "a": 1}', "an object has a name twice"),
    "a constant": ("Nan", "malformed JSON at column"),
    "a control character": ('"a\tb"', "malformed JSON .*Invalid control character"),
    "a bad escape": (r'"\x"', "malformed JSON"),
    "nothing": ("", "malformed JSON"),
}


@pytest.mark.parametrize("what", JSON)
def test_json_values(what, tmp_path):
    value, said = JSON[what]
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "a", "label": 1}\n{"text": "b", "label": 0, "other": ' + value + "}\n"
    )
    refused(path, f"line 2: .*{said}")
    path.write_text('{"text": "a", "label": 1}\n\n' + value + "\n" if value else "x\n")
    with pytest.raises(ValueError, match=r"a\.jsonl"):
        read(path)


def test_json_that_is_odd_but_clear(tmp_path):
    lines = '{"text": "a", "label": 1, "x": NaN}\n{"text": "b", "label": 1.0, "y": 1e999}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    assert read(tmp_path / "a.jsonl") == Records(["a", "b"], ["1", "1"])


def test_a_column_twice_in_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1, "text": "b"}\n')
    refused(tmp_path / "a.jsonl", "line 1: an object has a name twice")


def test_long_names_and_many_columns_are_cut_in_messages(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"x" * 10_000: 1} | dict.fromkeys(map(str, range(5000))))
    )
    refused(tmp_path / "a.jsonl", r"its columns: 'x{39}…', '0', .*… \(4981 more\)")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("half", ["\ud83d", "a\udc00b"])
def test_half_a_surrogate_pair_in_a_label(name, half, tmp_path):
    path = tmp_path / name
    if name == "a.jsonl":
        path.write_text("".join(json.dumps({"text": "a", "label": x}) + "\n" for x in ("1", half)))
        refused(path, r"1 record with label with half a surrogate pair .*\(line 2\)")
    elif name == "a.csv":
        path.write_bytes(f"text,label\na,{half}\n".encode(errors="surrogatepass"))
        refused(path, "line 2 is not UTF-8")
    else:
        arrow = pytest.importorskip("pyarrow")
        label = half.encode(errors="surrogatepass")
        array = arrow.Array.from_buffers(
            arrow.string(),
            1,
            [
                None,
                arrow.py_buffer(bytes(4) + bytes([len(label), 0, 0, 0])),
                arrow.py_buffer(label),
            ],
        )
        write_parquet(path, arrow.table({"text": ["a"], "label": array}))
        refused(path, "is damaged")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("path", "a\udcff.csv"),
        ("text_column", "\udcff"),
        ("label_column", "\udcff"),
        ("column_names", ("text", "\udcff")),
        ("split", "\ud83d"),
    ],
)
def test_half_a_surrogate_pair_in_an_option(option, value):
    """As the shell passes bytes that are not UTF-8; the options are written into files later."""
    with pytest.raises(ValueError, match=f"{option} must be valid Unicode"):
        DataSource(**{"path": "a.csv", option: value})


def test_paths_that_cannot_be():
    with pytest.raises(ValueError, match="path must name a file"):
        DataSource("")
    with pytest.raises(FileNotFoundError, match=r"no file ~nobody-of-this-name/a\.csv"):
        read("~nobody-of-this-name/a.csv")


def write_parquet(path, table, **options):
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path, **options)


def test_parquet_with_a_name_twice(tmp_path):
    import pyarrow

    left = pyarrow.table({"id": [1, 2], "text": ["a", "b"], "label": [0, 1]})
    joined = left.join(pyarrow.table({"id": [1, 2], "label": [5, 6]}), keys="id")
    write_parquet(tmp_path / "a.parquet", joined)
    refused(tmp_path / "a.parquet", "the column name 'label' occurs more than once")
    # Which column it is makes no difference, as in CSV.
    refused(tmp_path / "a.parquet", "occurs more than once", label_column="id")


def test_parquet_types(tmp_path):
    import pyarrow as arrow

    path, texts = tmp_path / "a.parquet", ["a", "b"]
    for kind in (arrow.large_string(), arrow.dictionary(arrow.int8(), arrow.string())):
        write_parquet(path, arrow.table({"text": arrow.array(texts, kind), "label": [1.0, 2.0]}))
        assert read(path) == Records(texts, ["1", "2"])
    for label, said in [
        (arrow.array([1, 2], arrow.timestamp("ns")), r"label"),
        (
            arrow.array([1, 2], arrow.timestamp("us", "Mars/Phobos")),
            "column 'label' of type timest",
        ),
        (arrow.array([b"a", b"\xff"]), "label of type bytes"),
        (arrow.array([[1], []]), "label of type list"),
        (arrow.nulls(2), "label missing or empty"),
    ]:
        write_parquet(path, arrow.table({"text": texts, "label": label}))
        refused(path, said)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{", "what `datasets` wrote into it about its columns is damaged"),
        ('{"info": {"features": {"label": 5}}}', "about its columns is damaged"),
        (
            '{"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": '
            '{"names": ["x"], "_type": "ClassLabel"}}}}',
            "row 2: the label is not the number of one of the 1 classes",
        ),
    ],
)
def test_parquet_with_damaged_features(written, said, tmp_path):
    import pyarrow as arrow

    table = arrow.table({"text": ["a", "b"], "label": [0, 1]})
    write_parquet(tmp_path / "a.parquet", table.replace_schema_metadata({"huggingface": written}))
    refused(tmp_path / "a.parquet", said)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    import datasets

    folder = tmp_path_factory.mktemp("saved") / "data"
    datasets.disable_progress_bars()
    columns = {"text": RECORDS.texts, "label": [int(label) for label in RECORDS.labels]}
    datasets.Dataset.from_dict(columns).save_to_disk(folder)
    datasets.enable_progress_bars()
    return folder


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("damage", ["empty", "cut", "other", "gone", "list"])
def test_damaged_folders(name, damage, saved, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    whole = (path / name).read_bytes()
    contents = {"empty": b"", "cut": whole[:-20], "other": b"{}", "list": b"[]"}
    if damage == "gone":
        (path / name).unlink()
    else:
        (path / name).write_bytes(contents[damage])
    if (damage, name) == ("gone", "state.json"):
        refused(path, "not one that datasets.save_to_disk wrote")
    elif name == "dataset_info.json" and damage == "other":
        assert read(path) == RECORDS
    else:
        refused(path, "is a folder of datasets.save_to_disk that cannot be read; save it once more")


def test_offsets_that_point_nowhere(saved, tmp_path):
    """Arrow would read memory that is not its own, and the process would end."""
    path = tmp_path / "data"
    shutil.copytree(saved, path)
    file = path / "data-00000-of-00001.arrow"
    data = bytearray(file.read_bytes())
    first = len(RECORDS.texts[0].encode()).to_bytes(4, "little")
    place = data.index(bytes(4) + first) + 4
    data[place : place + 4] = b"\x00\xff\xff\x7f"
    file.write_bytes(data)
    refused(path, r"cannot be read \(ArrowInvalid\)")


def damaged(data, rng):
    """The bytes with a few of them changed, left out, repeated or cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[place:] = b""
        elif kind == 1:
            data[place : place + rng.randrange(1, 50)] = b""
        elif kind == 2:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 3:
            data[place:place] = rng.choice((b"\0", b"\xff", b'"', b"[" * 5000, b"9" * 5000, b"\r"))
        else:
            data[place:place] = data[: rng.randrange(40)]
    return bytes(data)


@pytest.mark.parametrize("name", [*TEXTS, "none.parquet", "snappy.parquet", "saved"])
def test_random_damage(name, saved, tmp_path):
    """Sources are read, or refused by a sentence for people; no error of a parser comes through."""
    import pyarrow

    rng = random.Random(name)
    path = tmp_path / name
    if name == "saved":
        shutil.copytree(saved, path)
        files = {file: file.read_bytes() for file in path.iterdir()}
    elif name in TEXTS:
        files = {path: TEXTS[name].encode()}
    else:
        whole = io.BytesIO()
        write_parquet(whole, pyarrow.Table.from_pylist(ROWS), compression=path.stem)
        files = {path: whole.getvalue()}
    for _ in range(150):
        file, whole = rng.choice(list(files.items()))
        file.write_bytes(damaged(whole, rng))
        for reader in (read_records, read_language_records):
            try:
                reader(DataSource(str(path)))
            except (ValueError, FileNotFoundError) as error:
                assert type(error) in (ValueError, FileNotFoundError)
                assert str(path) in str(error)
        file.write_bytes(whole)
