"""Whatever changes sums or draws is refused when a run is resumed, and named."""

import datetime
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpjax.finetuning.setup import identity
from dpjax.training import environment
from tests.support.runs import check


def change_weights(options, tmp_path, patch):
    folder = tmp_path / "changed"
    shutil.copytree(options["model"], folder)
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + np.float32(1e-6)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    original = identity.hash_of_checkpoint
    assert original(folder) != original(options["model"])
    # The same name with other weights in it.
    patch.setattr(identity, "hash_of_checkpoint", lambda _: original(folder))


def jax_option(name, value):
    def change(options, tmp_path, patch):
        before = getattr(jax.config, name)
        settings = environment.jax_settings()
        jax.config.update(name, value)
        changed = environment.jax_settings()
        jax.config.update(name, before)
        assert changed != settings
        patch.setattr(environment, "jax_settings", lambda: changed)

    return change


def change_version(options, tmp_path, patch):
    version = environment.version
    patch.setattr(environment, "version", lambda name: version(name) + ".1" * (name == "jaxlib"))


def change_devices(options, tmp_path, patch):
    patch.setattr(environment, "describe_environment", lambda: {"devices": "4 × H200"})


CHANGES = {
    "weights": (
        change_weights,
        "the weights, the configuration or the tokenizer in",
    ),
    "threefry": (
        jax_option("jax_threefry_partitionable", False),
        "jax_threefry_partitionable=True, which is False now",
    ),
    "x64": (jax_option("jax_enable_x64", True), "jax_enable_x64=False, which is True now"),
    "prng": (jax_option("jax_default_prng_impl", "rbg"), "jax_default_prng_impl=threefry2x32"),
    "precision": (
        jax_option("jax_default_matmul_precision", "bfloat16"),
        "jax_default_matmul_precision=None, which is bfloat16 now",
    ),
    "version": (change_version, r"with jaxlib [\d.]+, here is jaxlib [\d.]+\.1"),
    "devices": (change_devices, "started on cpu: .*, this is cpu: 4 × H200"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_sums_or_draws_is_refused(stopped, tmp_path, monkeypatch, name):
    change, words = CHANGES[name]
    change(stopped, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=f"cannot resume: .*{words}"):
        check(stopped)


def test_other_evaluation_data_is_refused(cheap_options, tmp_path, stop_after):
    path = tmp_path / "eval.csv"
    path.write_text(cheap_options["eval_data"].read_text())
    options = cheap_options | {"eval_data": path, "output_dir": tmp_path / "run"}
    stop_after(1, **options)
    path.write_text(path.read_text().replace("lovely", "awful"))
    with pytest.raises(ValueError, match="cannot resume: the evaluation data is not what"):
        check(options | {"resume": True})


def test_the_compilers_flags_are_compared(stopped, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with pytest.raises(ValueError, match=r"cannot resume: .*XLA_FLAGS=.*fast_math"):
        check(stopped)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": {"microbatch_size": 8}}, r"training\.microbatch_size=16, now it is 8"),
        ({"privacy": {"noise_multiplier": 5.0}}, r"privacy\.noise_multiplier=4\.0, now it is 5\.0"),
        ({"tuning": "full"}, "tuning=head, now it is full"),
        ({"seed": 6}, "seed=5, now it is 6"),
    ],
)
def test_other_options_are_named(stopped, change, words):
    changed = {
        name: stopped[name] | value if isinstance(value, dict) else value
        for name, value in change.items()
    }
    with pytest.raises(ValueError, match=f"cannot resume: .*{words}"):
        check(stopped | changed)


def test_what_changes_no_result_may_change(stopped, tmp_path):
    moved = tmp_path / "moved"
    stopped["output_dir"].rename(moved)
    training = stopped["training"] | {"checkpoint_every_seconds": 5.0, "keep_checkpoints": 3}
    training |= {"checkpoint_every_steps": 7}
    assert check(stopped | {"output_dir": moved, "training": training}).resumes


def test_the_checkpoints_hash_sees_every_file_that_is_computed_with(tiny_checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, folder)
    before = identity.hash_of_checkpoint(folder)
    assert before == identity.hash_of_checkpoint(tiny_checkpoint)
    (folder / "README.md").write_text("words")
    assert identity.hash_of_checkpoint(folder) == before
    names = ("config.json", "model.safetensors.index.json", "model-2.safetensors")
    for name in (*names, "tokenizer.json"):
        (folder / name).write_text("{}")
        after = identity.hash_of_checkpoint(folder)
        assert after != before
        before = after


def test_the_date_of_the_start_is_kept(stopped):
    path = stopped["output_dir"] / "private" / "identity.json"
    stored = json.loads(path.read_text())
    age = datetime.datetime.now() - datetime.datetime.fromisoformat(stored["started_at"])
    assert datetime.timedelta() <= age < datetime.timedelta(days=1)
    stored["started_at"] = "2025-02-03T23:59:00"
    path.write_text(json.dumps(stored))
    ready = check(stopped)
    assert ready.plan.started_at == datetime.datetime(2025, 2, 3, 23, 59)
    assert ready.identity["started_at"] == stored["started_at"]
