"""Measures of nearness to private records, against naive ones, and where they are written."""

import json
import stat

import numpy as np
import pytest

import dpjax
from dpjax.audit import Canaries, flip_coins, number_ids, seal
from dpjax.data import Texts
from dpjax.privatize import RunKey
from dpjax.synthesis.comparison.canaries import find_canaries
from dpjax.synthesis.comparison.copies import count_copies
from dpjax.synthesis.comparison.nearest import describe_distances
from dpjax.synthesis.comparison.words import compare_ngrams, describe_lengths, ngrams, split_words
from tests.finetuning.conftest import base_options as base_options
from tests.finetuning.conftest import eval_file as eval_file
from tests.finetuning.conftest import tiny_checkpoint as tiny_checkpoint
from tests.finetuning.conftest import train_file as labelled_file  # noqa: F401


@pytest.fixture
def sides():
    """Random texts over few words, so that much is shared; the last one is empty."""
    rng = np.random.default_rng(0)

    def texts(num):
        return [tuple(rng.choice(list("abcd"), rng.integers(1, 12))) for _ in range(num)] + [()]

    return texts(30), texts(40)


def features(words):
    return {*ngrams(words, 1), *ngrams(words, 2)}


def naive_distance(one, other):
    union = features(one) | features(other)
    return 1 - len(features(one) & features(other)) / len(union) if union else 0.0


def test_distances_equal_those_of_all_pairs(sides, monkeypatch):
    monkeypatch.setattr("dpjax.synthesis.comparison.nearest._MOST_PAIRS_AT_ONCE", 100)
    synthetic, real = sides
    found = describe_distances(synthetic, real)
    expected = [min(naive_distance(ours, theirs) for theirs in real) for ours in synthetic]
    assert found["synthetic_to_training"]["median"] == pytest.approx(np.median(expected))
    assert found["synthetic_to_training"]["largest"] == pytest.approx(max(expected))
    among = [
        min(naive_distance(one, other) for j, other in enumerate(real) if i != j)
        for i, one in enumerate(real)
    ]
    assert found["training_to_training"]["p95"] == pytest.approx(np.quantile(among, 0.95))
    assert describe_distances(synthetic, real[:1])["training_to_training"] is None


def test_shared_ngrams_are_counted_one_by_one(sides):
    synthetic, real = sides
    for row in compare_ngrams(synthetic, real):
        ours = [gram for words in synthetic for gram in ngrams(words, row["n"])]
        theirs = [gram for words in real for gram in ngrams(words, row["n"])]
        assert row["synthetic_found_in_real"] == np.mean([gram in theirs for gram in ours])
        assert row["real_found_in_synthetic"] == np.mean([gram in ours for gram in theirs])
        assert row["distinct_in_real"] == len(set(theirs)) / len(theirs)
    assert compare_ngrams([()], real)[0]["synthetic_found_in_real"] is None
    assert describe_lengths(real)["records"] == 41


def test_copies_are_found_whatever_their_case():
    real = ["My name is Ada and I live here.", "thank you", "one two three four five six seven"]
    synthetic = [
        "Thank you!",
        "He said: my name is ada, and I LIVE here; he left",
        "my name is Ada and I was born in a house",
        "zero one two three four five six",
        "nothing of it",
    ]
    found = count_copies(*([split_words(text) for text in side] for side in (synthetic, real)))
    assert (found["equal"], found["whole"], found["training_records_copied"]) == (1, 1, 1)
    assert found["long_part"] == 1
    longer = [split_words("x one two three four five six seven eight nine")]
    assert count_copies(longer, longer)["long_part"] == 1


def test_canaries_are_found_where_their_texts_are_kept(tmp_path):
    assert find_canaries(tmp_path, ["x"]) is None
    run_key = RunKey.from_seed(1)
    ids = number_ids("random-tokens", 8)
    secrets = tuple(f"secret number {number} of eight" for number in range(8))
    canaries = Canaries(kind="random-tokens", ids=ids, records=Texts([*secrets]), secrets=secrets)
    coins = flip_coins(ids, run_key=run_key)
    seal(tmp_path, coins, run_key=run_key, canaries=canaries)
    included = np.flatnonzero(coins.included)
    assert 0 < len(included) < 8
    texts = [f"Well: SECRET  number\n{number} of eight!" for number in included[:2]]
    found = find_canaries(tmp_path, texts)
    assert (found["in_training"], found["left_out"]) == (len(texts), 0)
    (tmp_path / "private" / "canaries.json").unlink()
    gone = find_canaries(tmp_path, texts)
    assert gone["in_training"] is None and "private/ is deleted" in gone["reason"]


def test_a_comparison_is_private_and_stands_apart(completions_run, train_file, options):
    folder = options["output_dir"]
    plain = dpjax.synthesize(completions_run, **options)
    assert plain.comparison is None
    public = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A planted copy: a private record is in the file.
    record = json.loads(train_file.read_text().splitlines()[0])
    with plain.records.open("a") as file:
        file.write(json.dumps({"text": record["completion"], "thing": "apple"}) + "\n")
    result = dpjax.synthesize(completions_run, **options, resume=True, compare_with=train_file)
    assert result.comparison["copies"]["equal"] == 1
    assert result.comparison["distances"]["synthetic_to_training"]["least"] == 0.0
    for name in ("private_comparison.json", "private_comparison.md"):
        path = folder / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "PRIVATE" in path.read_text()
    # Nothing of it is in what may be published.
    for name in ("synthesis.json", "report.md"):
        assert (folder / name).read_bytes() == public[name]
    assert not (folder / "unfinished").exists()


@pytest.mark.slow
def test_a_classifier_is_trained_on_synthetic_and_tested_on_real(
    completions_run, tiny_checkpoint, eval_file, tmp_path
):
    result = dpjax.synthesize(
        completions_run,
        num=12,
        by="label",
        values=("good", "bad"),
        output_dir=tmp_path / "new",
        max_new_tokens=6,
        test_data=eval_file,
        classifier=tiny_checkpoint,
    )
    classifier = result.comparison["classifier"]
    assert 0 <= classifier["accuracy"] <= 1
    assert 0.5 <= classifier["share_of_most_frequent_label"] < 1
    assert classifier["held_out_records"] == 80
    assert "Accuracy" in (tmp_path / "new" / "private_comparison.md").read_text()
    assert not (tmp_path / "new" / "unfinished").exists()
