"""`python -m benchmarks utility`: what is run, what is kept, what is compared."""

import json

import pytest
from rich.console import Console

from benchmarks import utility
from benchmarks.__main__ import main
from benchmarks.recipes import RECIPES
from benchmarks.recipes import runs as recipe_runs
from benchmarks.recipes.peers import NotComparable, TunedHead
from dpjax.finetuning import FinetuneConfig, RunInterrupted

DATA = {"model": "m", "train_data": "t.csv", "eval_data": "e.csv"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_same_with_privacy_and_without(name, tmp_path):
    recipe = RECIPES[name]
    private = recipe.config(DATA, tmp_path / "a", 3.0)
    other = recipe.config(DATA, tmp_path / "a", None)
    assert private.privacy.target_epsilon == 3.0
    assert other.non_private
    assert not other.privacy.is_given
    assert private.training == other.training
    assert private.lora == other.lora
    assert private.tuning == other.tuning
    assert private.privacy.sampling == other.privacy.sampling


def test_a_shorter_run_has_the_steps_that_are_asked_for(tmp_path):
    config = RECIPES["sst2-lora"].config(DATA, tmp_path, 1.0, num_epochs=None, num_steps=5)
    assert (config.training.num_epochs, config.training.num_steps) == (None, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "dem"], "Did you mean 'demo'?"),
        (["--num-keys", "0"], "num_keys must be at least 1"),
        (["--libraries", "opacu"], "Did you mean 'opacus'?"),
        (
            ["--libraries", "opacus"],
            "libraries has opacus, which is not installed: pip install opacus, or",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_run(
    arguments, message, capsys, monkeypatch
):
    monkeypatch.setattr(utility, "is_installed", lambda name: name != "opacus")
    assert main(["utility", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_data_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks train.tsv, dev.tsv, test.tsv: put SST-2"):
        RECIPES["sst2-lora"].write_data(tmp_path / "new", tmp_path)


def test_development_and_test_sentences_are_held_out_together(tmp_path):
    (tmp_path / "sst2").mkdir()
    for name, text in {"train": "a\t0\n", "dev": "b\t1", "test": "c\t0\nd\t1\n"}.items():
        (tmp_path / "sst2" / f"{name}.tsv").write_text(text)
    options = RECIPES["sst2-lora"].write_data(tmp_path / "new", tmp_path)
    assert (tmp_path / "new" / "held_out.tsv").read_text() == "b\t1\nc\t0\nd\t1\n"
    assert FinetuneConfig.from_options({**options, "output_dir": "o", "non_private": True})


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Runs whose accuracy is the number of the run over ten; the folders are told."""
    asked = []

    class Result:
        def __init__(self, config):
            self.epsilon = None if config.non_private else config.privacy.target_epsilon
            self.eval_accuracy = len(asked) / 10
            self.privacy = {"mechanism": None if config.non_private else {"noise_multiplier": 2.0}}

    def run(config, console):
        asked.append(config)
        return Result(config)

    monkeypatch.setattr(recipe_runs, "set_up", lambda config: config)
    monkeypatch.setattr(recipe_runs, "execute", run)
    return asked


def test_each_run_is_done_once_and_means_are_beside_those_without_privacy(runs, tmp_path):
    command = ["utility", "--epsilons", "3", "--num-keys", "2", "--folder", str(tmp_path / "runs")]
    output = tmp_path / "utility.json"
    for _ in range(2):
        assert main([*command, "--output", str(output)]) == 0
    assert len({config.output_dir for config in runs}) == len(runs) == 4
    private, other = json.loads(output.read_text())["rows"]
    assert (private["library"], private["noise_multiplier"]) == ("dpjax", 2.0)
    assert private["accuracy"]["values"] == [0.1, 0.2]
    assert private["accuracy"]["mean"] == pytest.approx(0.15)
    assert other["run"] == "without privacy"
    assert private["accuracy_ratio"] == pytest.approx(0.15 / 0.35)
    assert output.with_suffix(".png").is_file()


@pytest.mark.parametrize("with_folder", [True, False])
def test_an_interrupted_run_says_how_to_go_on(runs, with_folder, tmp_path, capsys, monkeypatch):
    def interrupt(config, console):
        raise RunInterrupted("stopped after step 7 of 40", step=7)

    monkeypatch.setattr(recipe_runs, "execute", interrupt)
    folder = ["--folder", str(tmp_path / "runs")] if with_folder else []
    assert main(["utility", *folder, "--output", str(tmp_path / "utility.json")]) == 130
    said = "the same command goes on" if with_folder else "give --folder to go on another time"
    assert said in capsys.readouterr().out


@pytest.fixture
def peer(monkeypatch):
    """Libraries whose heads are always right without privacy, half as often with it; the tasks."""
    tasks = []

    class Data:
        def task(self, config):
            return config.privacy.target_epsilon

        def accuracy(self, head):
            return head

    def tune(library, task, seed):
        tasks.append((library, task, seed))
        return TunedHead(1.0, None, None) if task is None else TunedHead(0.5, task - 0.01, 3.0)

    monkeypatch.setattr(utility, "is_installed", lambda name: name != "opacus")
    monkeypatch.setattr(recipe_runs, "why_not", lambda *arguments: None)
    monkeypatch.setattr(recipe_runs, "make_head_data", lambda *arguments: Data())
    monkeypatch.setattr(recipe_runs, "tune_head", tune)
    return tasks


def test_installed_libraries_have_rows_beside_dpjax_with_ratios_of_their_own(
    runs, peer, tmp_path, capsys
):
    command = ["utility", "--epsilons", "3", "--num-keys", "2", "--libraries", "all"]
    command += ["--folder", str(tmp_path / "runs"), "--output", str(tmp_path / "utility.json")]
    for _ in range(2):
        assert main(command) == 0
    assert "opacus is not installed, and left out" in capsys.readouterr().out
    rows = json.loads((tmp_path / "utility.json").read_text())["rows"]
    assert [row["library"] for row in rows] == ["dpjax", "dpjax", "jax_privacy", "jax_privacy"]
    assert (rows[2]["epsilon"], rows[2]["noise_multiplier"]) == (2.99, 3.0)
    assert (rows[2]["accuracy_ratio"], rows[3]["accuracy_ratio"]) == (0.5, 1.0)
    # Each run is done once, with a seed of its own.
    assert len(runs) == len({seed for *_, seed in peer}) == len(peer) == 4


@pytest.mark.parametrize("when", ["by its options", "by its head"])
def test_a_recipe_that_a_library_cannot_run_is_left_out_in_one_line(
    when, runs, peer, tmp_path, capsys, monkeypatch
):
    def raise_it(*arguments):
        raise NotComparable("its head is round")

    if when == "by its options":
        monkeypatch.setattr(recipe_runs, "why_not", lambda *arguments: "its head is round")
    else:
        monkeypatch.setattr(recipe_runs, "make_head_data", raise_it)
    command = [
        "utility",
        "--epsilons",
        "3",
        "--num-keys",
        "1",
        "--output",
        str(tmp_path / "a.json"),
    ]
    assert main([*command, "--libraries", "jax_privacy"]) == 2
    shown = capsys.readouterr().out
    assert shown.count("demo is not run by jax_privacy: its head is round") == 1
    assert "nothing was run" in shown
    assert not (tmp_path / "a.json").exists()
    assert main([*command, "--libraries", "dpjax", "jax_privacy"]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {row["library"] for row in rows} == {"dpjax"}


def test_numbers_that_are_lost_are_not_made_up(runs, tmp_path):
    options = utility.Options(epsilons=(3.0,), num_keys=1)
    case = utility.cases(options, tmp_path)[0]
    data = recipe_runs.RecipeData(case.recipe, DATA, tmp_path, None, Console(quiet=True))
    recipe_runs.run_once(case, data, case.folders[0])
    (case.folders[0] / "numbers.json").unlink()
    (case.folders[0] / "run" / "model").mkdir(parents=True)
    (case.folders[0] / "run" / "report.md").write_text("finished")
    with pytest.raises(ValueError, match=r"is finished and .* is missing: delete"):
        recipe_runs.run_once(case, data, case.folders[0])
