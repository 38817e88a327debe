"""Features that other libraries get: those of dpjax's runs, or a reason why there are none."""

import jax
import numpy as np
import pytest
from dpjax_accounting import default_delta

from benchmarks.recipes import Recipe
from benchmarks.recipes.peers import NotComparable, features, make_head_data
from dpjax.finetuning import set_up
from dpjax.finetuning.training.evaluate import evaluate
from tests.finetuning.conftest import tiny_checkpoint as tiny_checkpoint
from tests.finetuning.conftest import write_records


@pytest.fixture
def data(tiny_checkpoint, tmp_path):
    """Options that name a tiny encoder and 60 records."""
    return {
        "model": str(tiny_checkpoint),
        "train_data": str(write_records(tmp_path / "train.csv", 60, seed=0)),
        "eval_data": str(write_records(tmp_path / "eval.csv", 30, seed=1)),
    }


def recipe(**changes):
    training = {"expected_batch_size": 20, "num_epochs": 2.0, "max_length": 16}
    options = {"tuning": "head", "training": training | {"label_smoothing": 0.1}}
    return Recipe(name="toy", about="", write_data=lambda *_: {}, options=options | changes)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_a_head_reads_what_the_whole_model_makes_of_records(layers, data, tmp_path):
    toy = recipe(features={"layers": layers})
    made = make_head_data(toy, data, tmp_path, {})
    assert len(made.features) == len(made.labels) == 60
    assert (made.num_steps, made.delta) == (6, default_delta(60))
    run = set_up(toy.config(data, tmp_path / "run", None))
    found = evaluate(run.plan.task, run.model, run.plan.evaluation)
    head = jax.tree.map(np.asarray, dict(run.model.trainable["classifier"]))
    assert made.accuracy(head) == pytest.approx(found.accuracy)
    start, other = made.draw_start(), made.draw_start()
    assert {name: leaf.shape for name, leaf in start.items()} == {
        name: leaf.shape for name, leaf in head.items()
    }
    assert not np.array_equal(start["kernel"], other["kernel"])
    assert not (tmp_path / "features").exists()


def test_a_run_gets_the_options_of_the_recipe(data, tmp_path):
    toy = recipe(privacy={"clip_norm": 0.7})
    made = make_head_data(toy, data, tmp_path, {"num_epochs": None, "num_steps": 3})
    private = made.task(toy.config(data, tmp_path / "run", 3.0))
    assert (private.clip_norm, private.target_epsilon, private.num_steps) == (0.7, 3.0, 3)
    assert private.sampling_probability == pytest.approx(20 / 60)
    without = made.task(toy.config(data, tmp_path / "run", None))
    assert (without.clip_norm, without.target_epsilon) == (1e30, None)
    assert without.training == private.training


def test_more_than_a_head_is_no_linear_layer(data, tmp_path):
    with pytest.raises(NotComparable, match="its head is not one linear layer on features"):
        make_head_data(recipe(tuning="bias"), data, tmp_path, {})


def test_a_head_with_other_losses_is_noticed(data, tmp_path, monkeypatch):
    def squared(head, example, label_smoothing):
        return linear(head, example, label_smoothing) ** 2

    linear = features.head_loss
    monkeypatch.setattr(features, "head_loss", squared)
    with pytest.raises(NotComparable, match="the losses of the first records are"):
        make_head_data(recipe(), data, tmp_path, {})
