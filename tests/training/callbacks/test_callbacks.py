"""Callbacks see each step, change nothing, and cannot end a run."""

import sys
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD
from rich.console import Console

import dpjax
from dpjax.training import TensorBoard, WeightsAndBiases

QUIET = Console(quiet=True)


class Recorder:
    def __init__(self, fails_at=None):
        self.rows, self.ends, self.fails_at = [], 0, fails_at

    def on_step(self, row):
        if row["step"] == self.fails_at:
            raise ConnectionError("no route")
        self.rows.append(dict(row))
        row["loss"] = "changed"

    def on_end(self):
        self.ends += 1


def make_run():
    mechanism = DPSGD(num_units=20, expected_batch_size=10, noise_multiplier=1.0, num_steps=4)
    return dpjax.fit(
        lambda w, x: (w - x) ** 2,
        jnp.zeros(()),
        np.linspace(1, 2, 20, dtype=np.float32),
        mechanism=mechanism,
        optimizer=optax.sgd(0.1),
        clip_norm=1.0,
        run_key=dpjax.RunKey.from_seed(1),
    )


def test_each_step_is_told_and_nothing_changes():
    first, second = Recorder(), Recorder()
    result = make_run().run(QUIET, callbacks=[first, second])
    assert first.rows == second.rows == result.metrics
    alone = make_run().run(QUIET)
    assert [row["loss"] for row in alone.metrics] == [row["loss"] for row in result.metrics]
    assert alone.params.tolist() == result.params.tolist()
    assert (first.ends, second.ends) == (1, 1)


def test_one_that_fails_is_left_out_and_named():
    failing, other = Recorder(fails_at=2), Recorder()
    with pytest.warns(UserWarning, match=r"Recorder failed in on_step .*ConnectionError: no route"):
        result = make_run().run(QUIET, callbacks=[failing, other])
    assert [row["step"] for row in failing.rows] == [1] and failing.ends == 0
    assert [row["step"] for row in other.rows] == [1, 2, 3, 4]
    assert len(result.metrics) == 4


def test_an_interruption_is_no_failure_and_ends_them():
    class Interrupting(Recorder):
        def on_step(self, row):
            raise KeyboardInterrupt

    other = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        make_run().run(QUIET, callbacks=[other])
    assert other.ends == 1


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = make_run().run(QUIET, callbacks=[TensorBoard(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    names = set(events.Tags()["tensors"])
    assert names == set(result.metrics[0]) - {"step"}
    points = events.Tensors("epsilon")
    assert [point.step for point in points] == [1, 2, 3, 4]
    shown = [point.tensor_proto.float_val[0] for point in points]
    np.testing.assert_allclose(shown, [row["epsilon"] for row in result.metrics], rtol=1e-6)


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package, and keeps what it is given."""
    sent, ends = [], []
    run = types.SimpleNamespace(
        log=lambda values, step: sent.append((step, values)), finish=lambda: ends.append(True)
    )
    module = types.SimpleNamespace(init=lambda project: run, sent=sent, ends=ends)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_what_has_no_noise_stays_here_unless_asked_for(wandb):
    make_run().run(QUIET, callbacks=[WeightsAndBiases("tuning")])
    assert [(step, set(values)) for step, values in wandb.sent] == [
        (step, {"step", "epsilon"}) for step in (1, 2, 3, 4)
    ]
    assert wandb.ends == [True]
    wandb.sent.clear()
    result = make_run().run(QUIET, callbacks=[WeightsAndBiases("tuning", private_metrics=True)])
    assert [values for _, values in wandb.sent] == result.metrics


@pytest.mark.parametrize(
    ("package", "make"),
    [("tensorboard", lambda: TensorBoard("x")), ("wandb", lambda: WeightsAndBiases("x"))],
)
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.summary", None)
    with pytest.raises(ImportError, match=rf"pip install 'dpjax\[{package}\]'"):
        make()
