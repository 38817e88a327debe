"""Whole runs on a tiny model: what they write, that they repeat, stop and go on as promised."""

import json
import re
import shutil
import signal

import huggingface_hub
import numpy as np
import pytest
from dpjax_accounting import DPSGD, verify_report
from safetensors.numpy import load_file

import dpjax
from dpjax.finetuning.setup.model import initial_a
from dpjax.finetuning.training import loop, whole_model
from dpjax.training import RunInterrupted


def weights(result):
    return (result.output_dir / "model" / "model.safetensors").read_bytes()


def losses(result):
    return [row["loss"] for row in result.metrics]


def read_json(path):
    return json.loads(path.read_text())


def test_a_run_leaves_what_it_promises(finished):
    result = finished
    names = {path.name for path in result.output_dir.iterdir()}
    assert names == {
        "config.json",
        "privacy.json",
        "privacy.html",
        "metrics.jsonl",
        "attack.json",
        "report.md",
        "training.png",
        "roc.png",
        "model",
        "adapter",
    }
    privacy = read_json(result.output_dir / "privacy.json")
    assert verify_report(privacy) == []
    mechanism = DPSGD.from_dict(privacy["mechanism"])
    guarantee = privacy["guarantee"]
    assert guarantee["epsilon"] == mechanism.epsilon(guarantee["delta"]) == result.epsilon
    assert 0.99 * 4.0 < result.epsilon <= 4.0
    assert (mechanism.num_units, mechanism.expected_batch_size) == (240, 40)
    assert mechanism.num_steps == privacy["steps_completed"] == len(result.metrics) == 6
    implementation = privacy["implementation"]
    assert (implementation["clip_norm"], implementation["target_epsilon"]) == (0.5, 4.0)
    assert guarantee["delta"] < 1 / 240 and implementation["delta_is_default"]
    assert privacy["dataset_total"] is None
    assert "data:image/png" in (result.output_dir / "privacy.html").read_text()
    assert privacy["randomness"]["seed_fixed"] is True and privacy["warnings"]
    assert result.metrics[-1]["epsilon"] == pytest.approx(result.epsilon, abs=1e-9)
    report = (result.output_dir / "report.md").read_text()
    assert f"{result.epsilon:.4g}" in report and "roc.png" in report
    assert read_json(result.output_dir / "config.json")["training"]["num_steps"] == 6


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(options, finished, tmp_path):
    again = dpjax.finetune(**options)
    other = dpjax.finetune(**options | {"output_dir": tmp_path / "other", "seed": 6})
    assert weights(finished) == weights(again) and losses(finished) == losses(again)
    assert weights(finished) != weights(other)


@pytest.mark.slow
def test_without_a_seed_two_runs_differ(options, tmp_path):
    options = {**options, "seed": None}
    first = dpjax.finetune(**options)
    second = dpjax.finetune(**options | {"output_dir": tmp_path / "second"})
    assert losses(first) != losses(second)
    randomness = first.privacy["randomness"]
    assert (randomness["seed_fixed"], randomness["run_key_bits"]) == (False, 256)
    assert first.privacy["run"]["id"] != second.privacy["run"]["id"]
    assert first.privacy["warnings"] == []


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_happened(options, finished, monkeypatch, number):
    whole = finished
    update = loop.TrainingProgress.update

    def stop_after_three(self, step, *arguments):
        update(self, step, *arguments)
        if step == 3:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", stop_after_three)
        with pytest.raises(RunInterrupted, match=r"step 3 of 6.*--resume"):
            dpjax.finetune(**options)
    private = options["output_dir"] / "private"
    assert private.stat().st_mode & 0o077 == 0
    stopped = read_json(options["output_dir"] / "privacy.json")
    assert (stopped["status"], stopped["steps_completed"]) == ("unfinished", 3)
    assert 0 < stopped["guarantee"]["epsilon"] < whole.epsilon
    assert verify_report(stopped) == []

    with pytest.raises(FileExistsError, match="resume"):
        dpjax.finetune(**options)
    changed = {**options, "training": options["training"] | {"learning_rate": 1.0}}
    with pytest.raises(ValueError, match=r"cannot resume.*training"):
        dpjax.finetune(**changed, resume=True)
    resumed = dpjax.finetune(**options, resume=True)
    assert weights(resumed) == weights(whole) and losses(resumed) == losses(whole)
    assert not private.exists()
    with pytest.raises(FileNotFoundError, match="a finished run"):
        dpjax.finetune(**options, resume=True)


@pytest.mark.slow
def test_a_resumed_run_has_the_a_that_it_started_with(options, tmp_path, monkeypatch):
    options = {**options, "lora": {"rank": 2, "start_a": "principal", "freeze_a": True}}
    whole = dpjax.finetune(**options)
    assert "A from principal components" in whole.output_dir.joinpath("report.md").read_text()
    plain = {**options, "lora": {"rank": 2, "freeze_a": True}, "output_dir": tmp_path / "plain"}
    assert losses(dpjax.finetune(**plain)) != losses(whole)
    options["output_dir"] = tmp_path / "stopped"

    def stop_after_two(self, step, *_):
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    def no_longer(*_):
        raise AssertionError("the directions were computed again")

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", stop_after_two)
        with pytest.raises(RunInterrupted):
            dpjax.finetune(**options)
    monkeypatch.setattr(initial_a, "start_a_at_principal_directions", no_longer)
    resumed = dpjax.finetune(**options, resume=True)
    assert weights(resumed) == weights(whole) and losses(resumed) == losses(whole)


@pytest.mark.slow
def test_what_a_record_drops_depends_on_the_step_and_on_nothing_else(
    options, finished, tmp_path, monkeypatch
):
    options = {**options, "lora": {"dropout": 0.5}}
    whole = dpjax.finetune(**options)
    # B starts at zero: what A reads does not matter before the first step.
    assert losses(finished)[0] == losses(whole)[0] and losses(finished)[1:] != losses(whole)[1:]
    training = options["training"] | {"microbatch_size": 40}
    larger = dpjax.finetune(**options | {"training": training, "output_dir": tmp_path / "larger"})
    np.testing.assert_allclose(losses(larger), losses(whole), rtol=1e-4)
    options["output_dir"] = tmp_path / "stopped"

    def stop_after_three(self, step, *_):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", stop_after_three)
        with pytest.raises(RunInterrupted):
            dpjax.finetune(**options)
    assert losses(dpjax.finetune(**options, resume=True)) == losses(whole)


@pytest.mark.slow
def test_a_checkpoint_from_the_hub_is_reported_with_its_commit(
    options, tiny_checkpoint, tmp_path, monkeypatch
):
    commits = {"main": "a" * 40, "v2": "b" * 40}
    for commit in commits.values():
        shutil.copytree(tiny_checkpoint, tmp_path / "snapshots" / commit)

    def snapshot_download(name, *, revision, allow_patterns):
        assert name == "nobody/tiny"
        return str(tmp_path / "snapshots" / commits[revision or "main"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    options = {**options, "model": "nobody/tiny"}
    with monkeypatch.context() as patch:
        patch.setattr(
            loop.TrainingProgress, "update", lambda *_: signal.raise_signal(signal.SIGINT)
        )
        with pytest.raises(RunInterrupted):
            dpjax.finetune(**options)
    commits["main"] = commits["v2"]
    with pytest.raises(ValueError, match=r"was at revision a{40}, now it is at b{40}"):
        dpjax.finetune(**options, resume=True)
    pinned = options | {"revision": "v2", "output_dir": tmp_path / "pinned"}
    result = dpjax.finetune(**pinned)
    assert result.privacy["run"]["base_model_revision"] == "b" * 40
    assert verify_report(result.privacy) == []
    assert f"nobody/tiny at {'b' * 40}" in (result.output_dir / "report.md").read_text()


def test_what_is_spent_is_on_record_before_the_model_is_written(options, monkeypatch):
    def crash(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(whole_model, "save_model", crash)
    with pytest.raises(OSError, match="disk full"):
        dpjax.finetune(**options)
    privacy = read_json(options["output_dir"] / "privacy.json")
    assert privacy["steps_completed"] == 6
    assert privacy["guarantee"]["epsilon"] == privacy["guarantee"]["epsilon_planned"] > 3.9


def test_resuming_with_other_data_is_refused(options, tmp_path, monkeypatch):
    copy = tmp_path / "train.csv"
    copy.write_text(options["train_data"].read_text())
    options = {**options, "train_data": copy}
    monkeypatch.setattr(
        loop.TrainingProgress, "update", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    with pytest.raises(RunInterrupted):
        dpjax.finetune(**options)
    copy.write_text(copy.read_text().replace("lovely", "awful"))
    with pytest.raises(ValueError, match="training data is not"):
        dpjax.finetune(**options, resume=True)


@pytest.mark.parametrize("tuning", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_non_private_runs_say_so_everywhere(options, tuning, capsys):
    result = dpjax.finetune(**options | {"privacy": {}, "non_private": True, "tuning": tuning})
    assert result.epsilon is None and result.delta is None
    privacy = read_json(result.output_dir / "privacy.json")
    assert privacy["private"] is False and privacy["guarantee"] is None
    assert verify_report(privacy) == ["The run was not private: there is no claim to verify."]
    assert "WITHOUT privacy" in privacy["warnings"][0]
    assert "WITHOUT privacy" in (result.output_dir / "report.md").read_text().splitlines()[0]
    assert "NO PRIVACY" in capsys.readouterr().out
    assert all("epsilon" not in row for row in result.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_training_learns_with_little_noise(options, tuning):
    training = options["training"] | {"num_steps": 90}
    training |= {"expected_batch_size": 240, "microbatch_size": 240}
    privacy = {"noise_multiplier": 0.3, "clip_norm": 4.0}
    result = dpjax.finetune(
        **options | {"training": training, "tuning": tuning, "privacy": privacy}
    )
    assert losses(result)[-1] < 0.6 * losses(result)[0]
    # Guessing gives 0.5 with a standard error of 0.056.
    assert result.eval_accuracy > 0.75


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("tuning", "belongs"),
    [
        (
            {"tuning": "lora"},
            lambda name: name.endswith(".weight") and not re.search("LayerNorm|embeddings", name),
        ),
        pytest.param(
            {"lora": {"target_modules": ["query"], "modules_to_save": ["output.LayerNorm"]}},
            lambda name: "query.weight" in name or "output.LayerNorm" in name,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"lora": {"target_modules": ["query"], "use_dora": True, "bias": "lora_only"}},
            lambda name: re.search(r"query\.(weight|bias)", name),
            marks=pytest.mark.slow,
        ),
        pytest.param({"tuning": "full"}, lambda name: True, marks=pytest.mark.slow),
        pytest.param(
            {"tuning": "bias"}, lambda name: name.endswith(".bias"), marks=pytest.mark.slow
        ),
        ({"tuning": "head"}, lambda name: False),
        (
            {"tuning": "last_layers", "num_trained_layers": 1},
            lambda name: re.search(r"layer\.1\.|pooler", name),
        ),
    ],
)
def test_every_trained_tensor_moves_and_no_other(options, tuning, belongs, tiny_checkpoint):
    result = dpjax.finetune(**options | tuning)
    before = load_file(tiny_checkpoint / "model.safetensors")
    after = load_file(result.output_dir / "model" / "model.safetensors")
    moved = {name for name in after if not np.array_equal(before.get(name), after[name])}
    assert moved == {name for name in after if belongs(name) or name.startswith("classifier")}


@pytest.mark.slow
def test_a_frozen_a_and_fewer_layers(options):
    lora = {"freeze_a": True, "target_modules": ["query"], "layers_to_transform": [0]}
    result = dpjax.finetune(**options | {"lora": lora, "num_layers": 1})
    assert not (result.output_dir / "adapter").exists()
    config = read_json(result.output_dir / "config.json")
    assert (config["num_layers"], config["lora"]["freeze_a"]) == (1, True)
    assert read_json(result.output_dir / "model" / "config.json")["num_hidden_layers"] == 1
    assert "on query of layers 0, A frozen" in (result.output_dir / "report.md").read_text()


@pytest.mark.slow
def test_the_tuned_folder_can_be_tuned_again(options, finished):
    again = dpjax.finetune(**options | {"model": finished.output_dir / "model"})
    assert again.epsilon <= 4.0


@pytest.mark.slow
def test_batch_sizes_follow_the_mechanism(options):
    training = options["training"] | {"num_steps": 150, "microbatch_size": 64}
    # The least to train and, with the noise given, to account for.
    options |= {"tuning": "head", "privacy": {"noise_multiplier": 4.0}}
    result = dpjax.finetune(**options | {"training": training})
    sizes = [row["num_records"] for row in result.metrics]
    q = DPSGD.from_dict(result.privacy["mechanism"]).sampling_probability
    assert q == 40 / 240
    standard_error = np.sqrt(240 * q * (1 - q) / 150)
    assert abs(np.mean(sizes) - 40) < 4 * standard_error
    assert np.std(sizes) == pytest.approx(np.sqrt(240 * q * (1 - q)), rel=0.3)
