"""Other libraries beside dpjax: the same steps without noise, ε, and what they cannot run."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD

import dpjax
from benchmarks.recipes import RECIPES
from benchmarks.recipes.peers import HeadData, HeadTask, libraries, tune_head, why_not
from benchmarks.recipes.peers.head_task import MovingAverage
from dpjax.finetuning import Training
from dpjax.finetuning.setup.optimizer import make_optimizer
from dpjax.models import sequence_classification_loss
from dpjax.training import average_of, keep_average

pytestmark = [
    # jax_privacy calls it.
    pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated"),
    # Opacus bounds the losses that its PRV accountant looks at by another accountant.
    pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha"),
]

NUM_RECORDS, SIZE, NUM_LABELS = 60, 5, 3
DATA = {"model": "m", "train_data": "t.csv", "eval_data": "e.csv"}
INSTALLED = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
        ),
    )
    for name in ("jax_privacy", "opacus")
]


def make_task(has_bias=True, target_epsilon=None, clip_norm=0.5, **training):
    """A toy: three well separated classes, all records in each batch unless one says otherwise."""
    rng = np.random.default_rng(0)
    labels = np.arange(NUM_RECORDS, dtype=np.int32) % NUM_LABELS
    features = rng.normal(size=(NUM_RECORDS, SIZE)) + 3 * np.eye(NUM_LABELS, SIZE)[labels]
    start = {"kernel": rng.normal(size=(SIZE, NUM_LABELS)).astype(np.float32)}
    if has_bias:
        start["bias"] = np.ones(NUM_LABELS, np.float32)
    recipe = {"expected_batch_size": NUM_RECORDS, "learning_rate": 0.3, "num_steps": 4}
    return HeadTask(
        features=features.astype(np.float32),
        labels=labels,
        start=start,
        training=Training(**recipe | training),
        num_steps=(recipe | training)["num_steps"],
        clip_norm=clip_norm,
        target_epsilon=target_epsilon,
        delta=1e-5,
    )


def tune_by_dpjax(task):
    """The same steps with dpjax's clipping, all records in each batch."""
    training = task.training
    params = {"classifier": jax.tree.map(jnp.asarray, task.start)}

    def loss(params, example):
        head, (features, label) = params["classifier"], example
        logits = features @ head["kernel"] + head.get("bias", 0.0)
        return sequence_classification_loss(logits, label, training.label_smoothing)

    clipped = dpjax.clipped_grad(loss, clip_norm=task.clip_norm)
    optimizer = keep_average(make_optimizer(training, task.num_steps), training.ema_decay or 1e-9)
    state = optimizer.init(params)
    for _ in range(task.num_steps):
        total = clipped(params, (task.features, task.labels)).grads
        mean = jax.tree.map(lambda leaf: leaf / task.batch_size, total)
        updates, state = optimizer.update(mean, state, params)
        params = optax.apply_updates(params, updates)
    return average_of(state, params)["classifier"]


RECIPES_OF_TOYS = [
    {"optimizer": "sgd", "label_smoothing": 0.2, "ema_decay": 0.5, "schedule": "constant"},
    {"optimizer": "adam", "has_bias": False, "head_learning_rate": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.3, "schedule": "cosine", "warmup_fraction": 0.5},
]


@pytest.mark.parametrize("library", INSTALLED)
@pytest.mark.parametrize("recipe", RECIPES_OF_TOYS, ids=lambda recipe: recipe["optimizer"])
def test_without_noise_the_steps_are_those_of_dpjax(library, recipe):
    task = make_task(**recipe)
    head = libraries._peer(library).tune(task, 0.0, seed=1)
    expected = tune_by_dpjax(task)
    assert head.keys() == expected.keys()
    for name, leaf in head.items():
        # Opacus adds 1e-6 to norms before it divides by them.
        tolerance = {"jax_privacy": 5e-6, "opacus": 1e-5}[library]
        np.testing.assert_allclose(leaf, expected[name], rtol=tolerance, atol=tolerance)
        assert leaf.dtype == np.float32


@pytest.mark.parametrize("library", INSTALLED)
def test_another_clip_norm_would_be_noticed(library):
    head = libraries._peer(library).tune(make_task(clip_norm=0.4), 0.0, seed=1)
    expected = tune_by_dpjax(make_task(clip_norm=0.5))
    assert np.max(np.abs(head["kernel"] - expected["kernel"])) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("library", INSTALLED)
def test_each_library_keeps_to_the_target_and_reports_it(library):
    task = make_task(target_epsilon=3.0, expected_batch_size=20, num_steps=3)
    tuned = tune_head(library, task, seed=2)
    own = DPSGD(
        num_units=NUM_RECORDS,
        expected_batch_size=20,
        noise_multiplier=tuned.noise_multiplier,
        num_steps=3,
    )
    assert 2.9 < tuned.epsilon <= 3.0
    assert own.epsilon(task.delta) == pytest.approx(tuned.epsilon, abs=0.03)


@pytest.mark.parametrize("library", INSTALLED)
def test_noise_has_the_deviation_that_was_asked_for(library):
    # One step of learning rate 1 from records that say nothing leaves noise alone.
    recipe = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "num_steps": 1}
    task = make_task(**recipe, schedule="constant", warmup_fraction=0.0)
    wide = np.zeros((SIZE, 4000), np.float32)
    task = dataclasses.replace(
        task, features=0 * task.features, start={"kernel": wide}, clip_norm=0.5
    )
    moved = libraries._peer(library).tune(task, 2.0, seed=3)["kernel"]
    assert np.std(moved) == pytest.approx(2.0 * 0.5 / NUM_RECORDS, rel=0.02)


@pytest.mark.parametrize("library", INSTALLED)
def test_batches_may_be_empty_and_differ_by_the_seed(library):
    recipe = {"optimizer": "sgd", "expected_batch_size": 1, "num_steps": 8}
    task = make_task(**recipe)
    heads = [libraries._peer(library).tune(task, 0.0, seed)["kernel"] for seed in (1, 1, 2)]
    assert all(np.all(np.isfinite(head)) for head in heads)
    np.testing.assert_array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[0], heads[2])


@pytest.mark.parametrize("library", INSTALLED)
def test_batches_of_several_parts_are_one_step(library, monkeypatch):
    task = make_task(optimizer="sgd")
    peer = libraries._peer(library)
    whole = peer.tune(task, 0.0, seed=1)
    monkeypatch.setattr(peer, "_MINIBATCH", 7)
    for name, leaf in peer.tune(task, 0.0, seed=1).items():
        np.testing.assert_allclose(leaf, whole[name], rtol=1e-5, atol=1e-6)


def test_the_average_is_that_of_dpjax():
    average, optimizer = MovingAverage(0.5), keep_average(optax.sgd(1.0), 0.5)
    params = {"kernel": jnp.zeros(2)}
    state = optimizer.init(params)
    for gradient in (1.0, -3.0, 2.0):
        updates, state = optimizer.update({"kernel": jnp.full(2, gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        average.add({"kernel": np.asarray(params["kernel"])})
    np.testing.assert_allclose(average.head["kernel"], average_of(state, params)["kernel"])
    last = MovingAverage(None)
    for value in (1.0, 7.0):
        last.add({"kernel": np.full(2, value)})
    assert last.head["kernel"].tolist() == [7.0, 7.0]


def test_accuracy_is_of_held_out_records():
    task = make_task()
    data = HeadData(
        features=task.features,
        labels=task.labels,
        held_out_features=np.eye(3, dtype=np.float32),
        held_out_labels=np.array([0, 1, 1]),
        draw_start=lambda: task.start,
        num_steps=1,
        delta=1e-5,
    )
    assert data.accuracy({"kernel": np.eye(3)}) == pytest.approx(2 / 3)
    assert data.accuracy({"kernel": np.eye(3), "bias": np.array([0, 9, 0])}) == pytest.approx(2 / 3)


class Sgd:
    OPTIMIZERS = ("sgd",)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("sst2-head", {}, None),
        ("sst2-lora", {}, "it has tuning=lora, and only head is compared"),
        (
            "sst2-head",
            {"training": {"optimizer": "adam"}},
            "it has training.optimizer=adam, and only sgd is compared",
        ),
        (
            "sst2-head",
            {"privacy": {"sampling": "fixed-size", "neighboring": "replace_one"}},
            "it has privacy.sampling=fixed-size, and only poisson is compared",
        ),
        (
            "sst2-smollm2-words",
            {},
            "it has head.label_words=('0=negative', '1=positive'), and only () is compared",
        ),
        ("sst2-head", {"measure": len}, "it is not measured by accuracy alone"),
    ],
)
def test_what_a_library_cannot_run_is_said(name, change, reason, monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "_peer", lambda library: Sgd)
    changes = {"measure": RECIPES[name].measure, **change}
    measure, options = changes.pop("measure"), {**RECIPES[name].options, **changes}
    recipe = dataclasses.replace(RECIPES[name], options=options, measure=measure)
    assert why_not(recipe, recipe.config(DATA, tmp_path, 3.0), "opacus") == reason
