"""training.microbatch_size=auto: what is chosen, that it fits, and what a resumed run takes."""

import json

import jax
import numpy as np
import pytest

import dpjax
from dpjax.cli.main import main
from dpjax.finetuning import FinetuneConfig, set_up
from dpjax.finetuning.setup.automatic import microbatch_size
from dpjax.finetuning.setup.plan import prepare
from dpjax.finetuning.setup.steps import abstract_split, step_programs


@pytest.fixture
def auto(cheap_options, tmp_path):
    """Options of a cheap run that chooses its microbatch size."""
    training = cheap_options["training"] | {"microbatch_size": "auto"}
    return cheap_options | {"training": training, "output_dir": tmp_path / "run"}


@pytest.fixture
def limit(monkeypatch):
    """Sets how much memory there is."""

    def set_limit(num_bytes):
        monkeypatch.setattr(microbatch_size, "memory_limit", lambda given: num_bytes)

    return set_limit


def options_of(auto):
    paths = {name: str(auto[name]) for name in ("model", "output_dir")}
    return FinetuneConfig.from_options(auto | paths)


def programs_of(auto):
    plan = prepare(options_of(auto))
    return step_programs(plan, abstract_split(plan))


def test_a_quarter_of_the_batch_where_there_is_room(auto, limit):
    limit(10**12)
    run = set_up(options_of(auto))
    assert run.plan.microbatch_size == 8
    assert run.identity["config"]["training.microbatch_size"] == 8
    (notice,) = run.notices
    assert "training.microbatch_size=auto: 8 records at once" in notice


def test_what_is_chosen_fits(auto, limit):
    programs = programs_of(auto)
    room = programs.memory(4).peak
    limit(room)
    chosen = set_up(options_of(auto)).plan.microbatch_size
    assert chosen == 4
    limit(room - 1)
    assert set_up(options_of(auto)).plan.microbatch_size < 4


def test_not_even_one_record_fits(auto, limit, capsys):
    limit(1000)
    arguments = ["finetune", "--model", auto["model"], "--output-dir", auto["output_dir"]]
    arguments += ["--train-data.path", auto["train_data"], "--eval-data.path", auto["eval_data"]]
    arguments += ["--privacy.noise-multiplier", 4, "--training.max-length", 16, "--tuning", "head"]
    arguments += ["--training.expected-batch-size", 4, "--training.microbatch-size", "auto"]
    assert main(list(map(str, arguments))) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "auto finds no size that fits: one record at a time needs" in said
    assert "Lower training.max_length" in said
    assert not auto["output_dir"].exists()


@pytest.mark.parametrize("size", ["0", "much", "2.5"])
def test_what_is_no_size_is_refused(size, auto, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "--training.microbatch-size", size])
    assert stopped.value.code == 2
    with pytest.raises(ValueError, match="microbatch_size must be at least 1, got 0"):
        dpjax.Training(microbatch_size=0)
    with pytest.raises(ValueError, match="must be a whole number or auto, got 'much'"):
        dpjax.Training(microbatch_size="much")


@pytest.mark.slow
def test_the_same_noise_and_epsilon_for_every_size(auto, limit):
    """Only rounding differs: the batches and the noise are those of any other size."""
    limit(10**12)
    runs = []
    for number, size in enumerate((1, 5, 64, "auto")):
        training = auto["training"] | {"microbatch_size": size}
        folder = auto["output_dir"].with_name(f"run{number}")
        runs.append(dpjax.finetune(**auto | {"training": training, "output_dir": folder}))
    first = runs[0]
    for other in runs[1:]:
        assert other.epsilon == first.epsilon
        assert other.privacy["mechanism"] == first.privacy["mechanism"]
        np.testing.assert_allclose(
            [row["loss"] for row in other.metrics],
            [row["loss"] for row in first.metrics],
            rtol=1e-4,
        )
    # config.json says the number that was taken.
    stored = json.loads((runs[-1].output_dir / "config.json").read_text())
    assert stored["training"]["microbatch_size"] == 8


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_size(auto, limit, stop_after, tmp_path):
    limit(10**12)
    whole = dpjax.finetune(**auto | {"output_dir": tmp_path / "whole"})
    stop_after(2, **auto)

    def compile(*args):
        raise AssertionError("nothing has to be chosen")

    with pytest.MonkeyPatch.context() as patch:
        # Here another size would be chosen.
        patch.setattr(microbatch_size, "memory_limit", compile)
        resumed = dpjax.finetune(**auto, resume=True)
    for one, other in zip(resumed.metrics, whole.metrics, strict=True):
        assert one["loss"] == other["loss"]


@pytest.mark.slow
def test_dropout_keys_are_counted(auto):
    with_dropout = auto | {"tuning": "lora", "lora": {"rank": 2, "dropout": 0.1}}
    without = auto | {"tuning": "lora", "lora": {"rank": 2}}
    difference = programs_of(with_dropout).memory(4).microbatch
    difference -= programs_of(without).memory(4).microbatch
    assert difference == 4 * 2 * 4


def test_abstract_and_loaded_models_have_the_same_compiled_memory(auto):
    run = set_up(options_of(auto | {"training": auto["training"] | {"microbatch_size": 8}}))
    loaded = step_programs(run.plan, run.model)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(run.model.frozen))
    assert loaded.memory(8) == programs_of(auto).memory(8)
