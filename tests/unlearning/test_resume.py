"""A stopped unlearning goes on and comes to what an uninterrupted one does."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from dpjax.cli.main import main
from dpjax.finetuning.training import loop
from dpjax.privatize import RunKey
from dpjax.training import RunInterrupted
from dpjax.unlearning import run as unlearning_run
from dpjax.unlearning import unlearn
from dpjax.unlearning.stages import measuring
from dpjax.unlearning.steps.stored_steps import StoredSteps
from tests.unlearning.conftest import write_facts

pytestmark = pytest.mark.slow

QUICK = {"num_epochs": 1.0, "batch_size": 2, "relearn_steps": 1, "measured_records": 4}
CERTIFIED = {
    "start_norm": 1.0,
    "gradient_norm": 0.5,
    "learning_rate": 0.1,
    "num_steps": 3,
    "noise_stddev": 0.5,
    "delta": 1e-5,
}
NOISY = {"method": "noisy_descent", "certified": CERTIFIED, "baseline": False}
NOISY |= {"batch_size": 2, "relearn_steps": 1, "measured_records": 4}


def weights(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def are_equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def stop_in(target, name, when, number=signal.SIGTERM):
    """Makes a call raise a signal: the one whose arguments `when` accepts."""
    patch = pytest.MonkeyPatch()
    wrapped, stopped = getattr(target, name), []

    def stop(*arguments, **others):
        if not stopped and when(*arguments):
            stopped.append(True)
            signal.raise_signal(number)
        return wrapped(*arguments, **others)

    patch.setattr(target, name, stop)
    return patch


@pytest.fixture(scope="module")
def whole(private_run, tmp_path_factory):
    """An unlearning that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    options = {"forget_rows": (0, 1, 2), "output_dir": folder}
    return unlearn(private_run, **options, **QUICK)


def test_stopped_in_baseline_steps_and_measures_it_comes_to_the_same(private_run, whole, tmp_path):
    folder = tmp_path / "out"
    options = {"forget_rows": (0, 1, 2), "output_dir": folder, **QUICK}
    places = (
        (loop.TrainingProgress, "update", lambda self, done, *_: done == 1, "baseline was stopped"),
        (StoredSteps, "note", lambda self, step, *_: step == 1, "after step 1 of 2 of unlearning"),
        (measuring, "measure_model", lambda *_: True, "what is done is stored"),
    )
    for target, name, when, message in places:
        patch = stop_in(target, name, when)
        try:
            with pytest.raises(RunInterrupted, match=message) as stopped:
                unlearn(private_run, **options, resume=folder.exists())
        finally:
            patch.undo()
        assert stopped.value.signal_number == signal.SIGTERM
        assert not (folder / "unlearning.json").exists()
        # No copy of private records is left while it waits.
        assert not (folder / "retained.jsonl").exists()
    result = unlearn(private_run, **options, resume=True)
    assert are_equal(weights(folder), weights(whole.output_dir))
    for part in ("method", "models", "verdict", "measured", "promise"):
        assert result.report[part] == whole.report[part]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        p.name for p in whole.output_dir.iterdir()
    )


def test_what_cannot_go_on_is_refused(private_run, whole, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="holds a finished unlearning"):
        unlearn(private_run, forget_rows=(0,), output_dir=whole.output_dir, resume=True)
    with pytest.raises(FileExistsError, match="holds a finished unlearning"):
        unlearn(private_run, forget_rows=(0,), output_dir=whole.output_dir)
    options = {"forget_rows": (0,), "output_dir": tmp_path / "out", "baseline": False, **QUICK}
    patch = stop_in(measuring, "measure_model", lambda *_: True)
    words = ["unlearn", str(private_run), "--output-dir", str(options["output_dir"])]
    words += ["--no-baseline", "--num-epochs", "1", "--batch-size", "2", "--relearn-steps", "1"]
    words += ["--measured-records", "4", "--forget-rows"]
    try:
        assert main([*words, "0"]) == 128 + signal.SIGTERM
    finally:
        patch.undo()
    assert "--resume goes on" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match="or --resume, to go on"):
        unlearn(private_run, **options)
    for changes, message in (
        ({"seed": 3}, "started with seed=0, now it is 3"),
        ({"forget_rows": (1,)}, "the forget set is not what it was"),
    ):
        with pytest.raises(ValueError, match=message):
            unlearn(private_run, **options | changes, resume=True)


@pytest.fixture
def fixed_key(monkeypatch):
    """The key of the noise, which a fresh one takes the place of in every real unlearning."""
    keys = iter([RunKey.from_seed(1)] * 2)
    monkeypatch.setattr(unlearning_run.RunKey, "from_os_entropy", lambda: next(keys))


@pytest.mark.usefixtures("fixed_key")
def test_certified_steps_go_on_with_the_noise_that_they_had(private_run, tmp_path):
    options = {"forget_rows": (0, 1), **NOISY}
    whole = unlearn(private_run, output_dir=tmp_path / "whole", **options)
    folder = tmp_path / "stopped"
    patch = stop_in(StoredSteps, "note", lambda self, step, *_: step == 2)
    try:
        with pytest.raises(RunInterrupted, match="after step 2 of 3"):
            unlearn(private_run, output_dir=folder, **options)
    finally:
        patch.undo()
    assert not (folder / "adapter").exists()
    private = folder / "private"
    # A state that is lost is computed again; a key that is lost is not replaced by another one.
    lost = tmp_path / "lost"
    shutil.copytree(folder, lost)
    (lost / "private" / "run_key.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"run_key\.json is missing, and with it the noise"):
        unlearn(private_run, output_dir=lost, **options, resume=True)
    shutil.copytree(folder, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "private" / "checkpoint")
    for resumed in (folder, tmp_path / "again"):
        result = unlearn(private_run, output_dir=resumed, **options, resume=True)
        assert are_equal(weights(resumed), weights(whole.output_dir))
        assert result.report["models"] == whole.report["models"]
    # Nothing can recompute the noise now.
    assert not private.exists()


def test_certified_folder_says_what_is_certified_and_what_not(private_run, tmp_path, capsys):
    folder = tmp_path / "out"
    forget = private_run.parent / "forget.jsonl"
    facts = [json.loads(line) for line in forget.read_text().splitlines()]
    questions = write_facts(
        tmp_path / "questions.jsonl",
        [
            {"prompt": fact["prompt"], "paraphrase": fact["completion"], "perturbed": [" 1", " 2"]}
            for fact in facts
        ],
    )
    words = ["unlearn", str(private_run), "--forget", str(forget), "--output-dir", str(folder)]
    words += ["--method", "noisy_descent", "--no-baseline", "--truth-ratio", str(questions)]
    words += ["--relearn-steps", "1", "--measured-records", "4"]
    for name, value in CERTIFIED.items():
        words += [f"--certified.{name.replace('_', '-')}", str(value)]
    assert main(words) == 0
    assert "certified" in capsys.readouterr().out
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adapter", "privacy.json", "report.md", "unlearning.json"]
    privacy, report = (
        json.loads((folder / name).read_text()) for name in ("privacy.json", "unlearning.json")
    )
    certificate = privacy["certificate"]
    assert privacy["private"] is False and certificate == report["certificate"]
    (epsilon, delta), steps = (certificate["epsilon"], certificate["delta"]), certificate["steps"]
    assert (delta, steps["num_steps"]) == (1e-5, 3)
    # μ at T = 1, 2, 3 by hand: (2 + 0.1 T) / (0.5 √T).
    mu = min((2 + 0.1 * n) / (0.5 * n**0.5) for n in (1, 2, 3))
    assert certificate["mu"] == pytest.approx(mu) and epsilon > 0
    # What may be read beside the adapter says nothing of the forget set.
    assert "forget_set" not in privacy and "losses" not in json.dumps(privacy)
    page = (folder / "report.md").read_text()
    assert "## Certificate" in page and "Nothing is certified" not in page
    assert "Nothing is promised for the retained records" in page and "Truth ratio" in page
    assert report["truth_ratio"] == {"questions": len(facts), "forget_quality": None}
    # All trained parameters lie in the ball, and scaling or merging knows that they have no DP.
    trained = [leaf for name, leaf in weights(folder).items() if "lora" in name]
    assert np.sqrt(sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in trained)) <= 1.0


def test_noise_of_two_unlearnings_differs(private_run, tmp_path):
    options = {"forget_rows": (0,), **NOISY}
    results = [unlearn(private_run, output_dir=tmp_path / name, **options) for name in "ab"]
    one, other = (weights(result.output_dir) for result in results)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_options_of_a_report_are_those_that_were_given(whole):
    fields = {field.name for field in dataclasses.fields(unlearning_run.UnlearnConfig)}
    assert set(whole.report["options"]) == fields - {"resume"}
