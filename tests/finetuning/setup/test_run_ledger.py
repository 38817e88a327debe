"""Runs that keep a ledger: its total is what was released from the data, computed by hand."""

import json
import signal

import pytest
from dpjax_accounting import DPSGD, Composition, Ledger, TamperedError, verify_report

import dpjax
from dpjax.finetuning import run
from dpjax.finetuning.training import loop
from dpjax.training import TOTAL_UNKNOWN, CheckpointWriter, RunInterrupted


@pytest.fixture
def options(options, tmp_path):
    """Noise and δ at which accounting takes no time, and a ledger."""
    privacy = {"noise_multiplier": 4.0, "delta": 1e-5, "clip_norm": 0.5}
    privacy["ledger"] = str(tmp_path / "records.ledger")
    return {**options, "privacy": privacy, "seed": None}


def ledger_of(options):
    return Ledger(options["privacy"]["ledger"])


def stop_after(step, monkeypatch, options, **changes):
    update = loop.TrainingProgress.update

    def stop(self, done, *arguments):
        update(self, done, *arguments)
        if done == step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(RunInterrupted):
        patch.setattr(loop.TrainingProgress, "update", stop)
        dpjax.finetune(**options, **changes)
    return json.loads((options["output_dir"] / "privacy.json").read_text())


@pytest.mark.slow
def test_an_interrupted_run_is_charged_once(options, monkeypatch):
    mechanism = DPSGD(num_units=240, expected_batch_size=40, noise_multiplier=4.0, num_steps=6)
    stopped = stop_after(2, monkeypatch, options)
    assert ledger_of(options).epsilon(1e-5) == pytest.approx(mechanism.after(2).epsilon(1e-5))
    stop_after(4, monkeypatch, options, resume=True)
    assert ledger_of(options).epsilon(1e-5) == pytest.approx(mechanism.after(4).epsilon(1e-5))
    result = dpjax.finetune(**options, resume=True)
    (entry,) = ledger_of(options).entries()
    assert (entry.charged, entry.num_steps, entry.run) == (mechanism, 6, stopped["run"]["id"])
    total = result.privacy["dataset_total"]
    assert total["epsilon"] == pytest.approx(result.epsilon)
    assert total["num_runs"] == 1
    for report in (stopped, result.privacy):
        assert verify_report(report, ledger_of(options)) == []


@pytest.mark.slow
def test_two_runs_on_the_same_data_compose(options, tmp_path, monkeypatch):
    first, second = (
        DPSGD(num_units=240, expected_batch_size=40, noise_multiplier=4.0, num_steps=6),
        DPSGD(num_units=240, expected_batch_size=20, noise_multiplier=6.0, num_steps=9),
    )
    stop_after(5, monkeypatch, options)
    other = options["privacy"] | {"noise_multiplier": 6.0}
    training = options["training"] | {"expected_batch_size": 20, "num_steps": 9}
    changes = {"output_dir": tmp_path / "second", "privacy": other, "training": training}
    result = dpjax.finetune(**options | changes)
    by_hand = Composition((first.after(5), second)).epsilon(1e-5)
    total = result.privacy["dataset_total"]
    assert total["epsilon"] == pytest.approx(by_hand) == ledger_of(options).epsilon(1e-5)
    assert total["num_runs"] == 2 and total["epsilon"] > result.epsilon
    assert verify_report(result.privacy, ledger_of(options)) == []
    report = (result.output_dir / "report.md").read_text()
    assert f"ε = {by_hand:.4g} at δ = 1e-05, 2 in the ledger" in report
    assert "2 runs, this one included" in (result.output_dir / "privacy.html").read_text()
    assert ledger_of(options).dataset.sha256 not in json.dumps(result.privacy)


@pytest.mark.slow
def test_the_charge_is_on_disk_before_the_first_step_and_a_crash_leaves_it_whole(
    options, monkeypatch
):
    seen = []

    def crash(*_):
        seen.append(ledger_of(options).epsilon(1e-5))
        raise OSError("no power")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no power"):
        patch.setattr(run, "train", crash)
        dpjax.finetune(**options)
    whole = DPSGD(num_units=240, expected_batch_size=40, noise_multiplier=4.0, num_steps=6).epsilon(
        1e-5
    )
    assert seen == [pytest.approx(whole)]
    assert ledger_of(options).epsilon(1e-5) == pytest.approx(whole)
    dpjax.finetune(**options, resume=True)
    assert ledger_of(options).epsilon(1e-5) == pytest.approx(whole)


@pytest.mark.slow
def test_ledgers_that_do_not_fit_are_refused_before_anything_is_written(
    options, eval_file, tmp_path
):
    dpjax.finetune(**options | {"seed": 5})
    again = options | {"output_dir": tmp_path / "again"}
    with pytest.raises(ValueError, match="the same noise"):
        dpjax.finetune(**again | {"seed": 5, "training": options["training"] | {"num_steps": 5}})
    with pytest.raises(ValueError, match="another data set: 240 records"):
        dpjax.finetune(**again | {"train_data": eval_file})
    nowhere = options["privacy"] | {"ledger": str(tmp_path / "nowhere" / "ledger")}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dpjax.finetune(**again | {"privacy": nowhere})
    path = ledger_of(options).path
    path.write_bytes(path.read_bytes().replace(b"4.0", b"9.0"))
    with pytest.raises(TamperedError, match="line 2"):
        dpjax.finetune(**again)
    assert not again["output_dir"].exists()


def test_a_run_without_privacy_keeps_no_ledger(options):
    privacy = {"ledger": options["privacy"]["ledger"]}
    with pytest.raises(ValueError, match="non_private=True has no"):
        dpjax.finetune(**options | {"privacy": privacy, "non_private": True})


def lose(path):
    path.unlink()


def tamper(path):
    path.write_bytes(path.read_bytes().replace(b"4.0", b"9.0"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lose, tamper])
def test_no_damage_to_the_ledger_takes_the_model_away_after_the_last_step(
    options, monkeypatch, damage, capsys
):
    update = loop.TrainingProgress.update

    def damaged_at_the_end(self, done, *arguments):
        update(self, done, *arguments)
        if done == 6:
            damage(ledger_of(options).path)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingProgress, "update", damaged_at_the_end)
        result = dpjax.finetune(**options)
    folder = result.output_dir
    assert (folder / "model" / "model.safetensors").exists()
    assert not (folder / "private").exists()
    assert result.privacy["dataset_total"] is None
    assert verify_report(result.privacy) == []
    published = (folder / "privacy.json").read_text()
    assert TOTAL_UNKNOWN in published and str(options["privacy"]["ledger"]) not in published
    (warning,) = result.warnings
    assert warning.startswith(TOTAL_UNKNOWN) and "The reason: " in warning
    assert "gave no total" in capsys.readouterr().out


def test_a_damaged_ledger_stops_a_run_that_is_not_done(options, monkeypatch):
    update = loop.TrainingProgress.update

    def damaged(self, done, *arguments):
        update(self, done, *arguments)
        if done == 2:
            tamper(ledger_of(options).path)

    with monkeypatch.context() as patch, pytest.raises(TamperedError):
        # The state is stored, and what was spent is noted, after each step.
        patch.setattr(CheckpointWriter, "is_due", lambda writer: writer.wait() is None)
        patch.setattr(loop.TrainingProgress, "update", damaged)
        dpjax.finetune(**options)
    assert not (options["output_dir"] / "model").exists()
