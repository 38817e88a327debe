"""A stopped unlearning goes on and comes to what an uninterrupted one does."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dpjax.cli.main import main
from dpjax.finetuning.training import loop
from dpjax.privatize import RunKey
from dpjax.training import RunInterrupted
from dpjax.unlearning import UnlearnConfig, unlearn
from dpjax.unlearning import run as unlearning_run
from dpjax.unlearning.measures.model import Measured
from dpjax.unlearning.measures.truth_ratio import log_truth_ratios
from dpjax.unlearning.stages import measuring
from dpjax.unlearning.steps.stored_steps import StoredSteps
from tests.unlearning.conftest import write_facts

pytestmark = pytest.mark.slow

QUICK = {"num_epochs": 1.0, "batch_size": 2, "forget_rows": (0, 1, 2)}
CERTIFIED = {
    "start_norm": 1.0,
    "gradient_norm": 0.5,
    "learning_rate": 0.1,
    "num_steps": 3,
    "noise_stddev": 0.5,
    "delta": 1e-5,
}
NOISY = {"method": "noisy_descent", "certified": CERTIFIED, "baseline": False}
NOISY |= {"batch_size": 2, "forget_rows": (0, 1, 2)}


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


def measure_weights(unlearning, model, records):
    """Numbers that change with any weight, in the place of measures that take long."""
    del unlearning
    sums = [float(np.abs(leaf).sum(dtype=np.float64)) for leaf in jax.tree.leaves(model.trainable)]
    numbers = {"loss": 0.01 * sum(sums), "rouge_l": 0.0}
    numbers |= {"exact_memorisation": sums[0], "extraction_strength": sums[-1]}
    parts = {part: dict(numbers) for part in ("forget", "retain", "held_out")}
    ratios = None
    if records.questions is not None:
        ratios = log_truth_ratios(model.merge(), records.questions)
    return Measured(parts, np.array(sums[:3]), np.array(sums[3:6]), sum(sums), ratios)


@pytest.fixture(autouse=True)
def quick_measures(monkeypatch):
    monkeypatch.setattr(measuring, "_measure", measure_weights)


def go_through(private_run, folder, places, **options):
    """Stops in one place after the other, and then goes on to the end."""
    for target, name, when, message in places:
        patch = stop_in(target, name, when)
        try:
            with pytest.raises(RunInterrupted, match=message) as stopped:
                unlearn(private_run, output_dir=folder, **options, resume=folder.exists())
        finally:
            patch.undo()
        assert stopped.value.signal_number == signal.SIGTERM
        assert not (folder / "unlearning.json").exists()
        # No copy of private records is left while it waits.
        assert not (folder / "retained.jsonl").exists()
    return unlearn(private_run, output_dir=folder, **options, resume=True)


AT_STEP = (StoredSteps, "note", lambda self, step, *_: step == 1, "after step 1 of 2 of unlearning")
AT_BASELINE = (
    loop.TrainingProgress,
    "update",
    lambda self, done, *_: done == 1,
    "baseline was stopped",
)


def are_the_same(result, whole):
    assert are_equal(weights(result.output_dir), weights(whole.output_dir))
    for part in ("method", "models", "verdict", "measured", "promise"):
        assert result.report[part] == whole.report[part]
    names = [sorted(p.name for p in each.output_dir.iterdir()) for each in (result, whole)]
    assert names[0] == names[1] and "private" not in names[0]


def test_stopped_in_steps_and_measures_it_comes_to_the_same(private_run, tmp_path, monkeypatch):
    options = {**QUICK, "baseline": False}
    whole = unlearn(private_run, output_dir=tmp_path / "whole", **options)
    calls = []

    def measure(*arguments):
        calls.append(arguments)
        return measure_weights(*arguments)

    monkeypatch.setattr(measuring, "_measure", measure)
    at_measure = (measuring, "_measure", lambda *_: True, "what is done is stored")
    result = go_through(private_run, tmp_path / "out", (at_measure, AT_STEP), **options)
    are_the_same(result, whole)
    # The original was measured before the second stop, and not once more after it.
    assert len(calls) == 2
    with pytest.raises(FileNotFoundError, match="holds a finished unlearning"):
        unlearn(private_run, output_dir=tmp_path / "out", **options, resume=True)
    with pytest.raises(FileExistsError, match="holds a finished unlearning"):
        unlearn(private_run, output_dir=tmp_path / "out", **options)
    assert set(whole.report["options"]) == {f.name for f in dataclasses.fields(UnlearnConfig)} - {
        "resume"
    }


def test_stopped_in_the_baseline_it_goes_on_with_it(private_run, tmp_path):
    whole = unlearn(private_run, output_dir=tmp_path / "whole", **QUICK)
    result = go_through(private_run, tmp_path / "out", (AT_BASELINE, AT_STEP), **QUICK)
    are_the_same(result, whole)
    retrained = [each.output_dir / "retrained" for each in (result, whole)]
    assert are_equal(*map(weights, retrained))


def test_what_cannot_go_on_is_refused(private_run, tmp_path, capsys):
    options = {**QUICK, "output_dir": tmp_path / "out", "baseline": False}
    patch = stop_in(measuring, "_measure", lambda *_: True)
    words = ["unlearn", str(private_run), "--output-dir", str(options["output_dir"])]
    words += ["--no-baseline", "--num-epochs", "1", "--batch-size", "2", "--forget-rows"]
    try:
        assert main([*words, "0", "1", "2"]) == 128 + signal.SIGTERM
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
    options = NOISY
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
    # μ at T = 1, 2, 3 by hand: (2 + 0.1 T + rounding) / (0.5 √T).
    rounding = 2 * 1e-4 * (1 + 0.05)
    mu = min((2 + (0.1 + rounding) * n) / (0.5 * n**0.5) for n in (1, 2, 3))
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
    results = [unlearn(private_run, output_dir=tmp_path / name, **NOISY) for name in "ab"]
    one, other = (weights(result.output_dir) for result in results)
    assert any(not np.array_equal(one[name], other[name]) for name in one)
