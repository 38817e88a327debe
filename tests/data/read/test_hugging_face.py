"""Data of the `datasets` library: class names, saved folders, hub ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpjax.data import DataSource, Records, read_records

RECORDS = Records(["good", "bad", "NA"], ["pos", "neg", "neg"])


@pytest.fixture(scope="module")
def datasets():
    import datasets

    return datasets


@pytest.fixture
def classes(datasets):
    """A dataset whose labels are class numbers with names."""
    return make(datasets, [1, 0, 0])


def make(datasets, labels):
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "id": datasets.Value("int64"),
        }
    )
    columns = {"text": RECORDS.texts, "label": labels, "id": [1, 2, 3]}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(autouse=True)
def quiet(datasets):
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def read(path: Path, **options: object) -> Records:
    return read_records(DataSource(str(path), **options))


def test_class_names_in_parquet(classes, tmp_path):
    classes.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == RECORDS


def test_saved_dataset_with_another_format_and_order(datasets, classes, tmp_path):
    classes.select([2, 0]).with_format("numpy").save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == Records(["NA", "good"], ["neg", "pos"])


def test_saved_splits(datasets, classes, tmp_path):
    splits = {"train": classes, "validation": classes.select([1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == RECORDS
    assert read(tmp_path / "saved", split="validation") == Records(["bad"], ["neg"])
    message = (
        r"no split 'valid'; its splits: 'train', 'validation'\. Did you mean split='validation'\?"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "saved", split="valid")


def test_unlabelled_class_is_missing(datasets, tmp_path):
    make(datasets, [1, -1, -1]).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"2 records with label missing or empty \(rows 2, 3\)"):
        read(tmp_path / "saved")


def test_column_missing_in_saved_folder(classes, tmp_path):
    classes.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="no column 'sentence'; its columns: 'text', 'label'"):
        read(tmp_path / "saved", text_column="sentence")


@pytest.mark.parametrize("hub_id", ["imdb", "owner/name", "owner/name.v2"])
def test_hub_id_and_split_are_passed_on(hub_id, datasets, classes, monkeypatch, tmp_path):
    asked = []

    def load_dataset(path, *, split):
        asked.append((path, split, datasets.utils.are_progress_bars_disabled()))
        return classes

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    datasets.enable_progress_bars()
    assert read_records(DataSource(hub_id, split="test[:10%]")) == RECORDS
    assert asked == [(hub_id, "test[:10%]", True)]
    assert not datasets.utils.are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        ("DatasetNotFoundError", FileNotFoundError, "'imbd' does not exist or is not open to you"),
        ("ConnectionError", ConnectionError, "there is no file at .*imbd.*could not be reached"),
        ("ValueError", ValueError, "split 'train' of the hub dataset 'imbd'.*configurations"),
    ],
)
def test_hub_errors_say_what_was_tried(raised, expected, message, datasets, monkeypatch, tmp_path):
    kinds = {
        "DatasetNotFoundError": datasets.exceptions.DatasetNotFoundError,
        "ConnectionError": ConnectionError,
        "ValueError": ValueError,
    }

    def load_dataset(path, *, split):
        raise kinds[raised]("the reason")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(expected, match=f"(?s){message}") as caught:
        read_records(DataSource("imbd"))
    assert "the reason" in str(caught.value)
