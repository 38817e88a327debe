"""`fit` goes on on another mesh, unless a step that was shown would be done again there."""

import json
import shutil
import warnings

import pytest

from tests.training.fitting.stored.small_fit import QUIET, WHOLE, fit, leave_after

STEP = 5


def on_two_devices(folder):
    """Makes the run in the folder one that two devices have begun."""
    identity = folder / "private" / "identity.json"
    stored = json.loads(identity.read_text()) | {"mesh": "data=2,fsdp=1,tensor=1"}
    identity.write_text(json.dumps(stored))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What is left of a run whose steps a loop has seen, and of one that nobody has looked at."""
    folder = tmp_path_factory.mktemp("runs")
    for done in fit(folder / "shown", checkpoint_every_steps=2):
        if done.step == STEP:
            shutil.copytree(folder / "shown", folder / "killed in a loop")

    class Copy:
        def on_step(self, row):
            if row["step"] == STEP:
                shutil.copytree(folder / "hidden", folder / "killed")

        def on_end(self):
            pass

    fit(folder / "hidden", checkpoint_every_steps=2).run(QUIET, callbacks=[Copy()])
    return folder


def test_steps_that_were_shown_are_not_done_again_in_other_roundings(killed, tmp_path):
    folder = shutil.copytree(killed / "killed in a loop", tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"steps up to \d+ may have been shown, of which"):
            fit(on_two_devices(folder), resume=True)


def test_the_same_mesh_goes_on_whatever_was_shown(killed, tmp_path, whole):
    folder = shutil.copytree(killed / "killed in a loop", tmp_path / "run")
    assert fit(folder, resume=True).run(QUIET).params["w"].tolist() == whole


def test_a_run_that_nobody_looked_at_goes_on_anywhere(killed, tmp_path, whole):
    folder = shutil.copytree(killed / "killed", tmp_path / "run")
    words = "data=2,fsdp=1,tensor=1 and goes on on .*, without a mesh: .* up to rounding only"
    with pytest.warns(RuntimeWarning, match=words):
        run = fit(on_two_devices(folder), resume=True)
    assert run.steps_completed <= STEP
    result = run.run(QUIET)
    assert result.params["w"].tolist() == whole and result.epsilon == WHOLE


def test_a_run_that_was_put_down_goes_on_anywhere(tmp_path, whole):
    leave_after(STEP, tmp_path / "run").result()
    with pytest.warns(RuntimeWarning, match="up to rounding only"):
        run = fit(on_two_devices(tmp_path / "run"), resume=True)
    assert run.steps_completed == STEP and run.run(QUIET).params["w"].tolist() == whole
