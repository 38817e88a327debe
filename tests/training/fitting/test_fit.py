"""`fit`: any model, the loop of every run, and what it refuses."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD, verify_report
from rich.console import Console

import dpjax
from dpjax.privatize import private_gradient

NUM = 60
MECHANISM = DPSGD(num_units=NUM, expected_batch_size=12, noise_multiplier=1.1, num_steps=6)
QUIET = Console(quiet=True)
KEY = dpjax.RunKey.from_seed(3)


def squares(params, record):
    return jnp.sum((params["w"] * record["x"] - record["y"]) ** 2)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM, 3)).astype(np.float32)
    return {"x": x, "y": 2 * x}


@pytest.fixture
def options(data):
    return {
        "loss": squares,
        "params": {"w": jnp.zeros(3)},
        "data": data,
        "mechanism": MECHANISM,
        "optimizer": optax.adam(0.1),
        "clip_norm": 0.7,
        "delta": 1e-3,
        "run_key": KEY,
        "microbatch_size": 5,
    }


def test_it_is_a_loop_of_private_gradients(options, data):
    result = dpjax.fit(**options).run(QUIET)
    private = private_gradient(squares, mechanism=MECHANISM, clip_norm=0.7, run_key=KEY)
    params, optimizer = {"w": jnp.zeros(3)}, options["optimizer"]
    state = optimizer.init(params)
    for step in range(MECHANISM.num_steps):
        total = private.zeros(params, step)
        for rows, mask in private.batches(step, microbatch_size=5):
            batch = {name: column[rows] for name, column in data.items()}
            total = private.add(total, params, batch, mask)
        updates, state = optimizer.update(private.release(total, step), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(result.params["w"], params["w"], rtol=1e-6)
    assert result.epsilon == MECHANISM.epsilon(1e-3)
    assert [row["step"] for row in result.metrics] == [1, 2, 3, 4, 5, 6]
    assert verify_report(result.privacy) == []
    # Those who call it keep their parameters.
    assert options["params"]["w"].tolist() == [0, 0, 0]


def test_a_loop_may_stop_and_go_on(options):
    whole = dpjax.fit(**options).run(QUIET)
    run = dpjax.fit(**options)
    for done in run:
        if done.step == 2:
            break
    stopped = run.result()
    assert stopped.epsilon == MECHANISM.after(2).epsilon(1e-3) < whole.epsilon
    assert stopped.privacy["status"] == "unfinished" and verify_report(stopped.privacy) == []
    stopping = stopped.privacy["data_uses"][1]
    assert stopping["status"] == "not covered" and f"{whole.epsilon:.4g}" in stopping["explanation"]
    seen = [(done.step, done.epsilon) for done in run]
    assert [step for step, _ in seen] == [3, 4, 5, 6] and seen[-1][1] == whole.epsilon
    assert run.params["w"].tolist() == whole.params["w"].tolist()
    assert run.result().privacy["run"]["id"] == stopped.privacy["run"]["id"]
    assert run.result().metrics[1]["num_records"] == whole.metrics[1]["num_records"]


def test_the_report_says_what_neighbours_are(options):
    mechanism = dataclasses.replace(MECHANISM, neighboring="zero_out")
    first, *_ = dpjax.fit(**options | {"mechanism": mechanism}).result().privacy["assumptions"]
    assert "contributes nothing" in first


def test_without_privacy_it_is_gradient_descent(options, data):
    from dpjax.privatize import PoissonSampler

    recipe = dpjax.NoPrivacy(num_units=NUM, expected_batch_size=12, num_steps=4)
    changes = {"mechanism": recipe, "optimizer": optax.sgd(0.1), "clip_norm": None, "delta": None}
    result = dpjax.fit(**options | changes).run(QUIET)
    sampler = PoissonSampler(NUM, 0.2, KEY)
    w = np.zeros(3)
    for step in range(4):
        rows = sampler.indices(step)
        x, y = data["x"][rows], data["y"][rows]
        w -= 0.1 * (2 * (w * x - y) * x).sum(axis=0) / 12
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-5)
    assert result.epsilon is None and "WITHOUT privacy" in result.privacy["warnings"][0]


def test_a_record_of_an_array_is_a_row(options):
    # `take` of an array with two axes takes single numbers; a record would be several units.
    rows = np.arange(2.0 * NUM, dtype=np.float32).reshape(NUM, 2)

    def train(loss, data):
        run = dpjax.fit(**options | {"loss": loss, "data": data, "params": jnp.zeros(2)})
        return run.run(QUIET).params.tolist()

    expected = train(lambda w, record: jnp.sum((w - record["x"]) ** 2), {"x": rows})
    for data in (rows, jnp.asarray(rows)):
        assert train(lambda w, record: jnp.sum((w - record) ** 2), data) == expected


@pytest.mark.slow
def test_records_may_come_from_an_object(options, data):
    class Table:
        def __len__(self):
            return NUM

        def take(self, rows):
            return {name: column[rows] for name, column in data.items()}

    result = dpjax.fit(**options | {"data": Table()}).run(QUIET)
    assert result.params["w"].tolist() == dpjax.fit(**options).run(QUIET).params["w"].tolist()


@pytest.mark.slow
def test_frozen_parameters_are_read_and_stay(options):
    def loss(params, record, frozen):
        return jnp.sum((params["w"] * frozen * record["x"] - record["y"]) ** 2)

    changes = {"loss": loss, "frozen": jnp.full(3, 1.0)}
    result = dpjax.fit(**options | changes).run(QUIET)
    assert result.params["w"].tolist() == dpjax.fit(**options).run(QUIET).params["w"].tolist()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"clip_norm": None}, TypeError, "either clip_norm or rule"),
        ({"rule": dpjax.FlatClipping(1.0)}, TypeError, "either clip_norm or rule"),
        ({"clip_norm": None, "rule": dpjax.AdaptiveClipping()}, TypeError, "use private_gradient"),
        ({"clip_norm": None, "rule": 1.0}, TypeError, "must be a clipping rule"),
        ({"clip_norm": -1.0}, ValueError, "must be positive"),
        ({"delta": 2.0}, ValueError, "delta"),
        ({"run_key": 7}, TypeError, "must be a RunKey, got int"),
        ({"microbatch_size": 0}, ValueError, "at least 1"),
        ({"params": {}}, ValueError, "at least one array"),
        ({"params": {"w": jnp.zeros(3, int)}}, TypeError, "floating point array, got w of int32"),
        ({"params": {"w": jnp.array([0, np.nan, 0.0])}}, ValueError, "NaN entries in w"),
        ({"data": {"x": np.zeros((9, 3)), "y": np.zeros((9, 3))}}, ValueError, "9 records and"),
        ({"data": {"x": np.zeros((NUM, 3)), "y": np.zeros(9)}}, ValueError, "9 and 60 records"),
        ({"data": 3.0}, TypeError, "arrays with a leading axis of records.*got float"),
        ({"data": [[1.0] * NUM]}, TypeError, "got float"),
        ({"data": {}}, TypeError, "got nothing"),
    ],
)
def test_mistakes_are_found_before_the_first_step(options, changes, error, message):
    with pytest.raises(error, match=message):
        dpjax.fit(**options | changes)


@pytest.mark.parametrize("changes", [{"clip_norm": 1.0}, {"delta": 1e-5}])
def test_no_privacy_has_neither_clipping_nor_delta(options, changes):
    recipe = dpjax.NoPrivacy(num_units=NUM, expected_batch_size=12, num_steps=4)
    bare = options | {"mechanism": recipe, "clip_norm": None, "delta": None}
    with pytest.raises(TypeError, match="leave out"):
        dpjax.fit(**bare | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_units": 0}, "num_units must be at least 1"),
        ({"expected_batch_size": 61}, "at most num_units=60"),
        ({"num_steps": -1}, "num_steps must be at least 0"),
    ],
)
def test_recipes_without_privacy_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dpjax.NoPrivacy(**{"num_units": 60, "expected_batch_size": 12, "num_steps": 3} | changes)


@pytest.mark.slow
def test_a_run_that_diverges_says_so(options):
    with pytest.raises(dpjax.RunStopped, match="start another one with a lower learning rate"):
        dpjax.fit(**options | {"optimizer": optax.sgd(1e38)}).run(QUIET)
