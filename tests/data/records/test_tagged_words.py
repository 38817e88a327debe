"""Words with a tag each, read from files and data sets; what is wrong is named by line."""

import json

import datasets
import pytest

from dpjax.data import DataSource, TaggedWords, label_names, read_tagged_words


def written(tmp_path, *records):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_words_and_tags_are_read(tmp_path):
    path = written(
        tmp_path,
        {"tokens": ["Ada", "met", "us"], "tags": ["B-PER", "O", "O"]},
        {"tokens": ["Rome"], "tags": [" LOC "]},
    )
    records = read_tagged_words(DataSource(path))
    assert records == TaggedWords([["Ada", "met", "us"], ["Rome"]], [["B-PER", "O", "O"], ["LOC"]])
    assert label_names(records) == ("B-PER", "LOC", "O")


def test_columns_may_have_other_names_and_tags_may_be_numbers(tmp_path):
    path = written(tmp_path, {"words": ["a", "b"], "ner": [1, 0.0]})
    records = read_tagged_words(DataSource(path, words_column="words", tags_column="ner"))
    assert records.tags == [["1", "0"]]


def test_numbers_get_the_names_that_are_given(tmp_path):
    path = written(tmp_path, {"tokens": ["a", "b"], "tags": [1, 0]})
    records = read_tagged_words(DataSource(path, tag_names=("O", "B-PER")))
    assert records.tags == [["B-PER", "O"]]
    for wrong in (2, -100, "O"):
        path = written(tmp_path, {"tokens": ["a", "b"], "tags": [1, wrong]})
        message = r"a tag that is not the number of one of 2 tag_names \(line 1\)"
        with pytest.raises(ValueError, match=message):
            read_tagged_words(DataSource(path, tag_names=("O", "B-PER")))
    with pytest.raises(ValueError, match="tag_names must be different names"):
        DataSource(path, tag_names=("O", "O"))


def test_class_numbers_of_a_parquet_file_become_names(tmp_path):
    tags = datasets.List(datasets.ClassLabel(names=["O", "PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": tags})
    stored = {"tokens": [["Ada", "met"], ["us"]], "tags": [[1, 0], [0]]}
    datasets.Dataset.from_dict(stored, features=features).to_parquet(tmp_path / "a.parquet")
    records = read_tagged_words(DataSource(str(tmp_path / "a.parquet")))
    assert records.tags == [["PER", "O"], ["O"]]


def test_class_numbers_of_a_saved_data_set_become_names(tmp_path):
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "PER"])),
        }
    )
    saved = datasets.Dataset.from_dict(
        {"tokens": [["Ada", "met"], ["us"]], "tags": [[1, 0], [0]]}, features=features
    )
    saved.save_to_disk(tmp_path / "saved")
    records = read_tagged_words(DataSource(str(tmp_path / "saved")))
    assert records.tags == [["PER", "O"], ["O"]]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, "another number of tags than of words"),
        ({"tokens": [], "tags": []}, "words missing or empty"),
        ({"tokens": None, "tags": ["O"]}, "words missing or empty"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "words of type str instead of list"),
        ({"tokens": ["a"], "tags": "O"}, "tags of type str instead of list"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "a word missing or empty"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "a word of type int instead of str"),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, "a tag missing or empty"),
        ({"tokens": ["a"], "tags": [["O"]]}, "a tag of type list instead of str, int or bool"),
    ],
)
def test_mistakes_are_named_by_line_and_never_quoted(tmp_path, record, message):
    path = written(tmp_path, {"tokens": ["secret"], "tags": ["O"]}, record)
    with pytest.raises(ValueError, match=rf"1 record with {message} \(line 2\)") as raised:
        read_tagged_words(DataSource(path))
    assert "secret" not in str(raised.value)


def test_a_file_of_labelled_texts_is_refused(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\nfine,good\n")
    with pytest.raises(ValueError, match="no column 'tokens'"):
        read_tagged_words(DataSource(str(path)))
