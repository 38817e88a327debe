"""`fit` goes on on another mesh, and shows no step again that comes out with other roundings."""

import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpjax.training import RunStopped, TrainingProgress
from dpjax.training.fitting.stored import shown
from dpjax.training.fitting.stored.shown import ShownSteps, fingerprint
from tests.training.fitting.stored.small_fit import QUIET, WHOLE, fit, leave_after

STEP = 5
TWO = "data=2,fsdp=1,tensor=1"


def on_two_devices(folder):
    """Makes the run in the folder one that two devices have begun."""
    identity = folder / "private" / "identity.json"
    stored = json.loads(identity.read_text())
    identity.write_text(json.dumps(stored | {"mesh": TWO, "meshes": [f"cpu: 2 × cpu, {TWO}"]}))
    return folder


def kill(folder, target):
    """Copies a folder as a kill would leave it before the first state is stored."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("checkpoint"))


class Copy:
    """A callback that does so after a step."""

    def __init__(self, folder, target):
        self.folder, self.target = folder, target

    def on_step(self, row):
        if row["step"] == STEP:
            kill(self.folder, self.target)

    def on_end(self):
        pass


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What is left of runs that a loop, a callback and nobody has looked at."""
    folder = tmp_path_factory.mktemp("runs")
    for done in fit(folder / "loop", checkpoint_every_steps=99):
        if done.step == STEP:
            kill(folder / "loop", folder / "killed in a loop")
    copy = Copy(folder / "callback", folder / "killed with a callback")
    fit(folder / "callback", checkpoint_every_steps=99).run(QUIET, callbacks=[copy])
    update, copy = TrainingProgress.update, Copy(folder / "alone", folder / "killed alone")

    def copying(self, step, *numbers):
        copy.on_step({"step": step})
        update(self, step, *numbers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingProgress, "update", copying)
        fit(folder / "alone", checkpoint_every_steps=99).run(QUIET)
    return folder


@pytest.mark.parametrize("name", ["killed in a loop", "killed with a callback"])
def test_a_step_that_was_shown_is_not_shown_with_other_roundings(killed, tmp_path, name):
    folder = shutil.copytree(killed / name, tmp_path / "run")
    shown = folder / "private" / "shown.jsonl"
    rows = [json.loads(line) for line in shown.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEP + 1))
    # As if the last step that was shown had been rounded otherwise.
    rows[-1]["bits"][0] ^= 1
    shown.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = fit(folder, resume=True)
    with pytest.raises(RunStopped, match=f"step {STEP} was shown before, and comes out with other"):
        run.run(QUIET)
    assert run.params is None and run.steps_completed == STEP
    assert fit(folder, resume=True).steps_completed == 0


def test_steps_with_the_same_bits_are_shown_again_anywhere(killed, tmp_path, whole):
    folder = shutil.copytree(killed / "killed in a loop", tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(folder, resume=True)
    with pytest.warns(RuntimeWarning, match="up to rounding only"):
        run = fit(on_two_devices(folder), resume=True)
    assert list(run)[-1].params["w"].tolist() == whole


def test_a_run_that_nobody_looked_at_notes_nothing(killed, tmp_path, whole):
    folder = shutil.copytree(killed / "killed alone", tmp_path / "run")
    assert not (folder / "private" / "shown.jsonl").exists()
    words = f"started on .*{TWO} and goes on on .*, without a mesh: .* up to rounding only"
    with pytest.warns(RuntimeWarning, match=words):
        run = fit(on_two_devices(folder), resume=True)
    assert run.steps_completed == 0
    result = run.run(QUIET)
    assert result.params["w"].tolist() == whole and result.epsilon == WHOLE


def test_all_meshes_that_a_run_was_on_are_told(tmp_path, whole):
    leave_after(2, tmp_path / "run").result()
    on_two_devices(tmp_path / "run")
    for step in (3, 4):
        with pytest.warns(RuntimeWarning, match="up to rounding only") as said:
            run = fit(tmp_path / "run", resume=True)
        for done in run:
            if done.step == step:
                break
        run.result()
    assert f"{TWO} and then cpu: 1 × cpu, without a mesh and goes on on" in str(said[0].message)


def test_half_a_line_was_never_shown(tmp_path):
    path = tmp_path / "shown.jsonl"
    with ShownSteps(path) as steps:
        steps.note(1, fingerprint({"w": jnp.ones(3)}))
    path.write_bytes(path.read_bytes() + b'{"step": 2, "bi')
    with ShownSteps(path) as steps:
        steps.note(2, fingerprint({"w": jnp.zeros(3)}))
        with pytest.raises(RunStopped, match="step 1 was shown before"):
            steps.note(1, fingerprint({"w": jnp.zeros(3)}))


@given(st.integers(0, 5), st.integers(0, 31), st.sampled_from([np.float32, jnp.bfloat16]))
def test_each_bit_counts(position, bit, dtype):
    params = [np.arange(6, dtype=np.float32).reshape(2, 3).astype(dtype), np.ones(4, np.float32)]
    word = np.uint32 if params[0].itemsize == 4 else np.uint16
    other = params[0].copy()
    other.reshape(-1).view(word)[position] ^= word(1 << bit % (8 * params[0].itemsize))
    one, two = fingerprint(params), fingerprint([other, params[1]])
    assert one.dtype == jnp.uint32 and one.tolist() != two.tolist()
    assert fingerprint([np.array(params[0]), params[1]]).tolist() == one.tolist()


def test_the_order_of_entries_and_arrays_counts():
    a, b = np.arange(4, dtype=np.float32), np.array([0, 1, 3, 2], np.float32)
    prints = [fingerprint(tree).tolist() for tree in ([a, b], [b, a], [a, a], [b, b])]
    assert len({tuple(each) for each in prints}) == 4
    assert fingerprint([-np.zeros(1)]).tolist() != fingerprint([np.zeros(1)]).tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "float8_e4m3fn"])
def test_a_fingerprint_is_the_same_on_the_host_and_on_devices(monkeypatch, dtype):
    shapes = [(), (5,), (3, 4), (2, 3, 4), (0, 3), (3, 0)]
    leaves = [jax.random.normal(jax.random.key(0), shape).astype(dtype) for shape in shapes]
    on_host = fingerprint(leaves)
    monkeypatch.setattr(shown, "_is_of_host", lambda _: False)
    on_devices = fingerprint(leaves)
    assert isinstance(on_host, np.ndarray) and isinstance(on_devices, jax.Array)
    assert on_host.tolist() == on_devices.tolist()


def test_parameters_can_be_donated_after_their_fingerprint_is_taken():
    params = jnp.ones((64, 64))
    fingerprint(params)
    address = params.unsafe_buffer_pointer()
    later = jax.jit(lambda w: w + 1, donate_argnums=0)(params)
    assert later.unsafe_buffer_pointer() == address
