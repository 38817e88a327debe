"""microbatch_size="auto" of `fit`: what is chosen, that it fits, and what a resumed run takes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD, BandedDPSGD
from rich.console import Console

import dpjax
from dpjax.training.fitting import microbatch_size
from dpjax.training.memory.step_programs import StepPrograms

QUIET = Console(quiet=True)
NUM = 200
MECHANISM = DPSGD(num_units=NUM, expected_batch_size=40, noise_multiplier=1.0, num_steps=3)


def squares(params, x):
    return jnp.sum((jnp.tanh(x.reshape(200, 20) @ params["w"]) - 1) ** 2)


def options(**changes):
    given = {
        "loss": squares,
        "params": {"w": jnp.zeros(20)},
        "data": np.random.default_rng(0).normal(size=(NUM, 4000)).astype(np.float32),
        "mechanism": MECHANISM,
        "optimizer": optax.adam(0.1),
        "clip_norm": 1.0,
        "delta": 1e-3,
        "run_key": dpjax.RunKey.from_seed(3),
        "microbatch_size": "auto",
    }
    return given | changes


def test_a_resumed_run_keeps_the_memory_it_was_planned_with(tmp_path, monkeypatch):
    """Another number may be another strategy, and that other roundings."""
    folder = options(microbatch_size=8, run_key=None, output_dir=tmp_path / "run")

    def interrupt():
        for _ in dpjax.fit(**folder, resume=True):
            break
        return json.loads((tmp_path / "run" / "private" / "identity.json").read_text())

    monkeypatch.setattr(microbatch_size, "memory_of_default_device", lambda: 10**10)
    assert interrupt()["device_memory"] == 10**10
    monkeypatch.setattr(microbatch_size, "memory_of_default_device", lambda: 10**6)
    assert interrupt()["device_memory"] == 10**10
    with pytest.raises(ValueError, match="device_memory was 10000000000, now it is 1000000"):
        dpjax.fit(**folder, resume=True, device_memory=10**6)


@pytest.fixture
def limit(monkeypatch):
    """Sets how much memory there is."""

    def set_limit(num_bytes):
        monkeypatch.setattr(microbatch_size, "memory_limit", lambda option, given: num_bytes)

    return set_limit


def test_a_quarter_of_the_batch_where_there_is_room(limit):
    limit(10**12)
    assert dpjax.fit(**options()).microbatch_size == 8
    recipe = dpjax.NoPrivacy(num_units=NUM, expected_batch_size=80, num_steps=3)
    changes = {"mechanism": recipe, "clip_norm": None, "delta": None}
    assert dpjax.fit(**options(**changes)).microbatch_size == 16


def test_what_is_chosen_fits(limit, monkeypatch):
    peaks, memory = {}, StepPrograms.memory

    def noted(self, size):
        found = memory(self, size)
        peaks[size] = found.peak
        return found

    monkeypatch.setattr(StepPrograms, "memory", noted)
    limit(10**12)
    dpjax.fit(**options())
    room = peaks[8] - 1
    limit(room)
    chosen = dpjax.fit(**options()).microbatch_size
    assert chosen < 8 and peaks[chosen] <= room


def test_not_even_one_record_fits(limit):
    limit(1000)
    with pytest.raises(
        ValueError, match=r"microbatch_size=auto finds no size .*Make records small"
    ):
        dpjax.fit(**options())


def test_a_device_that_does_not_tell_is_refused(monkeypatch):
    class Device:
        platform, device_kind = "gpu", "a GPU"

        def memory_stats(self):
            return None

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    words = "a GPU does not tell how much memory it has. Give microbatch_size as a number."
    with pytest.raises(ValueError, match=words):
        dpjax.fit(**options())


@pytest.mark.parametrize("size", ["much", 2.5, True, None])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match=r'must be a whole number or "auto", got'):
        dpjax.fit(**options(microbatch_size=size))


def test_a_resumed_run_goes_on_with_its_size(limit, tmp_path):
    whole = dpjax.fit(**options(microbatch_size=8)).run(QUIET)
    folder = {"output_dir": tmp_path / "run", "resume": True, "run_key": None}
    limit(10**12)
    for _done in dpjax.fit(**options(**folder | {"run_key": options()["run_key"]})):
        break
    identity = json.loads((tmp_path / "run" / "private" / "identity.json").read_text())
    assert identity["microbatch_size"] == 8
    # Nothing would fit here.
    limit(0)
    resumed = dpjax.fit(**options(**folder))
    assert resumed.microbatch_size == 8
    result = resumed.run(QUIET)
    assert result.params["w"].tolist() == whole.params["w"].tolist()
    assert result.epsilon == whole.epsilon


def test_correlated_noise_has_a_size_too(limit):
    pytest.importorskip("jax_privacy")
    limit(10**12)
    mechanism = BandedDPSGD(
        num_units=NUM,
        expected_batch_size=40,
        noise_multiplier=1.0,
        num_steps=4,
        bands=2,
        column_norm=1.0,
    )
    assert dpjax.fit(**options(mechanism=mechanism)).microbatch_size == 8
