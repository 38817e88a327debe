"""Whose a record is, and which records of an owner a step reads."""

import numpy as np
import pytest

from dpjax import RunKey
from dpjax.data import (
    DataSource,
    OwnedRecords,
    Owners,
    RecordsByOwner,
    read_language_records,
    read_records,
)

KEY = RunKey.from_seed(11)
NAMES = ["b", "a", "b", "b", "c", "b", "a"]


def test_owners_are_in_the_order_in_which_they_occur():
    owners = Owners.of(NAMES)
    assert len(owners) == 3
    assert owners.counts.tolist() == [4, 2, 1]
    assert [owners.rows_of(i).tolist() for i in range(3)] == [[0, 2, 3, 5], [1, 6], [4]]
    assert owners.owner_of.tolist() == [0, 1, 0, 0, 2, 0, 1]


def test_a_draw_has_own_rows_without_repetition_and_a_mask():
    owners = Owners.of(NAMES)
    for step in range(50):
        rows, mask = owners.draw(np.array([2, 0, 1]), 3, KEY, step)
        assert mask.tolist() == [[True, False, False], [True] * 3, [True, True, False]]
        assert rows[0].tolist() == [4, 4, 4]
        assert set(rows[1]) < {0, 2, 3, 5}
        assert len(set(rows[1])) == 3
        assert rows[2].tolist() == [1, 6, 1]


def test_a_draw_is_of_the_step_and_the_owner_alone():
    owners = Owners.of(NAMES * 2)
    together, _ = owners.draw(np.array([0, 1]), 1, KEY, 5)
    alone, _ = owners.draw(np.array([1]), 1, KEY, 5)
    assert alone[0] == together[1]
    # Whatever others have: owner 0 has other rows here.
    others = Owners.of(["b"] * 9 + NAMES[1:2] * 4)
    few = Owners.of(["b"] + NAMES[1:2] * 4)
    drawn = [others.draw(np.array([1]), 2, KEY, step)[0][0] - 9 for step in range(20)]
    again = [few.draw(np.array([1]), 2, KEY, step)[0][0] - 1 for step in range(20)]
    np.testing.assert_array_equal(drawn, again)
    assert len({tuple(rows) for rows in drawn}) > 1


def test_draws_are_uniform_and_independent_between_owners():
    owners = Owners.of(["a"] * 4 + ["b"] * 4)
    steps = 4000
    rows = np.array([owners.draw(np.array([0, 1]), 1, KEY, step)[0][:, 0] for step in range(steps)])
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (rows[:, 0], rows[:, 1] - 4), 1)
    # Five standard errors of a share of 1/16.
    assert np.abs(pairs / steps - 1 / 16).max() < 5 * np.sqrt(1 / 16 * 15 / 16 / steps)


def test_draws_do_not_share_the_stream_of_sampling():
    streams = [KEY.sampling_rng(0), KEY.unit_rng(0, 0), KEY.unit_rng(0, 1), KEY.unit_rng(1, 0)]
    assert len({rng.integers(2**63) for rng in streams}) == 4
    assert KEY.unit_rng(2, 7).random() == KEY.unit_rng(2, 7).random()


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan")])
def test_a_row_without_an_owner_is_refused(missing):
    words = "each row must have the name of its owner, got .* for row 1. Name the owner"
    for make in (OwnedRecords, RecordsByOwner):
        with pytest.raises(ValueError, match=words):
            make(np.ones((3, 2)), ["ann", missing, "bo"], at_most=1)


def test_a_fingerprint_tells_who_has_what():
    assert Owners.of("aab").fingerprint() == Owners.of("xxy").fingerprint()
    assert Owners.of("aab").fingerprint() != Owners.of("abb").fingerprint()


def test_records_by_owner_give_units():
    x = np.arange(7.0)
    units = RecordsByOwner({"x": x}, NAMES, at_most=2)
    unit = units.take(np.array([2, 0]))
    assert unit["examples"]["x"].tolist() == [[4, 4], [0, 2]]
    assert unit["mask"].tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("names", "at_most", "words"),
    [
        (NAMES[1:], 1, "6 names for 7 records"),
        (NAMES, 0, "at_most must be at least 1, got 0"),
    ],
)
def test_records_by_owner_refuse(names, at_most, words):
    with pytest.raises(ValueError, match=words):
        RecordsByOwner(np.zeros(7), names, at_most=at_most)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.csv", "text,who\na,1\nb, 2\nc,\n\nd,\n"),
        (
            "notes.jsonl",
            '{"text": "a", "who": 1.0}\n{"text": "b", "who": "2"}\n'
            '{"text": "c", "who": null}\n\n{"text": "d"}\n',
        ),
    ],
)
def test_an_owner_must_be_there(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    words = r"2 records with owner missing or empty \(lines [34], [56]\)"
    with pytest.raises(ValueError, match=words):
        read_language_records(DataSource(str(path), owner_column="who"))


def test_names_are_read_as_strings_without_blanks(tmp_path):
    path = tmp_path / "notes.jsonl"
    names = ("1.0", '" 1 "', "true", '"Ann"')
    path.write_text("".join(f'{{"text": "x", "who": {name}}}\n' for name in names))
    read = read_language_records(DataSource(str(path), owner_column="who"))
    assert read.owners == ["1", "1", "True", "Ann"]
    assert read.take([3, 0]).owners == ["Ann", "1"]
    assert read.split_at(2)[1].owners == ["True", "Ann"]
    # Whose a record is says nothing of what it is.
    assert len(set(read.units())) == 1
    assert read_language_records(DataSource(str(path))).owners is None


def test_a_column_may_be_label_and_owner(tmp_path):
    import datasets

    data = datasets.Dataset.from_dict({"text": ["x", "y"], "who": ["ann", "bo"]})
    data.to_parquet(tmp_path / "notes.parquet")
    data.save_to_disk(tmp_path / "saved")
    for name in ("notes.parquet", "saved"):
        read = read_records(
            DataSource(str(tmp_path / name), label_column="who", owner_column="who")
        )
        assert (read.labels, read.owners) == (["ann", "bo"], ["ann", "bo"])


@pytest.mark.parametrize("columns", [{}, {"text_column": "note"}])
def test_an_owner_column_that_is_missing_is_named(tmp_path, columns):
    path = tmp_path / "notes.csv"
    path.write_text(f"{columns.get('text_column', 'text')},writer\na,1\n")
    source = DataSource(str(path), owner_column="writr", **columns)
    with pytest.raises(ValueError, match=r"no column 'writr'.*owner_column='writer'"):
        read_language_records(source)


def test_every_owner_keeps_so_many_rows_whatever_others_have():
    names = ["b"] * 9 + ["a"] * 2 + ["c"] * 30
    owners = Owners.of(names)
    kept = owners.keep(4)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert Owners.of(owners.owner_of[kept]).counts.tolist() == [4, 2, 4]
    np.testing.assert_array_equal(owners.keep(30), np.arange(41))
    # Without the others an owner keeps the same rows, and no place is preferred.
    np.testing.assert_array_equal(Owners.of(["c"] * 30).keep(4) + 11, kept[-4:])
    places = np.concatenate([Owners.of("x" * n).keep(1) / n for n in range(2, 400)])
    assert abs(places.mean() - 0.5) < 5 / np.sqrt(12 * 398)


def test_owned_records_are_single_ones():
    x = np.arange(7.0)
    owned = OwnedRecords({"x": x}, iter(NAMES), at_most=2)
    kept = Owners.of(NAMES).keep(2)
    assert len(owned) == 5
    assert owned.owners.counts.tolist() == [2, 2, 1]
    np.testing.assert_array_equal(owned.take(np.array([4, 1]))["x"], x[kept[[4, 1]]])
    with pytest.raises(ValueError, match="6 names for 7 records"):
        OwnedRecords(x, NAMES[1:], at_most=2)
