"""What recipes write and measure; that they train is test_utility's."""

import csv
import dataclasses
import json
import math

import pytest

from benchmarks.recipes import RECIPES, smollm2
from benchmarks.recipes.overlap import bleu, rouge_l
from dpjax.finetuning import FinetuneResult


def test_bleu_is_that_of_papineni_et_al():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 fours stand in the reference, which is
    # as long.
    written, reference = "the cat sat on the mat", "the cat sat on a mat"
    expected = 100 * math.exp(sum(map(math.log, (5 / 6, 3 / 5, 2 / 4, 1 / 3))) / 4)
    assert bleu([written], [[reference]]) == pytest.approx(expected)
    assert bleu([written], [["nothing", written]]) == pytest.approx(100)


def test_a_short_text_is_compared_with_no_reference_that_is_not_there():
    """A missing reference must not count as one of no words, to which every text is too long."""
    written = ["the cat sat on the", "the dog ran to the old house"]
    references = [["the cat sat on the mat of a friend"], [written[1], "a dog ran"]]
    # 12 words were written; the closest references have 9 and 7.
    precisions = (12 / 12, 10 / 10, 8 / 8, 6 / 6)
    penalty = math.exp(1 - 16 / 12)
    assert bleu(written, references) == pytest.approx(100 * penalty * math.prod(precisions))


def test_rouge_is_the_f_measure_of_the_longest_common_words():
    # "the cat the mat": 4 of 5 words written, 4 of 6 in the reference.
    written, reference = ["the cat on the mat"], [["the cat sits near the mat"]]
    precision, recall = 4 / 5, 4 / 6
    expected = 100 * 2 * precision * recall / (precision + recall)
    assert rouge_l(written, reference) == pytest.approx(expected)
    assert rouge_l(written, [[*reference[0], *written]]) == pytest.approx(100)


@pytest.fixture
def e2e(tmp_path, monkeypatch):
    """A small E2E: of each of 70 meanings three texts; returns the folder of data sets."""
    monkeypatch.setattr(smollm2, "find_smollm2", lambda: tmp_path / "model")
    folder = tmp_path / "data" / "e2e"
    folder.mkdir(parents=True)
    for name in ("dev.csv", "test.csv"):
        with (folder / name).open("w", newline="") as file:
            rows = [(f"name[{n}], food[x]", f"{n} has {kind}") for n in range(70) for kind in "xyz"]
            csv.writer(file).writerows([("mr", "ref"), *rows])
    return folder.parent


def test_held_out_texts_begin_with_each_meaning_once(e2e, tmp_path):
    options = RECIPES["e2e-smollm2"].write_data(tmp_path / "own", e2e)
    with open(options["eval_data"]["path"], newline="") as file:
        meanings = [row["mr"] for row in csv.DictReader(file)]
    asked = RECIPES["e2e-smollm2"].options["generation"]["num_prompts"]
    assert len(set(meanings[:asked])) == asked == 60
    assert set(meanings[asked:]) == set(meanings[:asked])
    assert len(meanings) == 3 * 60
    assert options["train_data"]["path"] == str(e2e / "e2e" / "dev.csv")


def test_texts_are_compared_with_all_references_of_their_meaning(e2e, tmp_path):
    recipe = RECIPES["e2e-smollm2"]
    data = recipe.write_data(tmp_path / "own", e2e)
    run = tmp_path / "run"
    run.mkdir()
    config = recipe.config(data, run, 8.0)
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    references = json.loads((tmp_path / "own" / "references.json").read_text())
    meaning, texts = next(iter(references.items()))

    @dataclasses.dataclass
    class Sample:
        prompt: str
        written: str

    class Result:
        output_dir = run
        eval_perplexity = 3.5
        samples = (Sample(meaning, texts[2]),)

    result: FinetuneResult = Result()  # type: ignore[assignment]
    assert recipe.measure(result)["rouge_l"] == pytest.approx(100)
    assert recipe.measure(result)["perplexity"] == 3.5


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epsilon", [3.0, None])
def test_each_recipe_has_options_that_fit_together(name, epsilon, tmp_path):
    data = {"model": "m", "train_data": "train.csv", "eval_data": "dev.csv"}
    config = RECIPES[name].config(data, tmp_path, epsilon)
    assert config.non_private == (epsilon is None)


def test_data_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "find_smollm2", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"e2e lacks dev.csv, test.csv: put E2E"):
        RECIPES["e2e-smollm2"].write_data(tmp_path / "own", tmp_path)
