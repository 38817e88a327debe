"""A run that trains its head first, and then the rest, is two loops with one guarantee."""

import copy
import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import DPSGD, DPSGDSchedule, Ledger, Segment, verify_report
from rich.console import Console

import dpjax
from dpjax.finetuning import run as run_module
from dpjax.finetuning.config import FinetuneConfig, Training
from dpjax.finetuning.setup import steps as steps_module
from dpjax.finetuning.setup.model import clipping_rule as clipping
from dpjax.finetuning.setup.optimizer import make_optimizer
from dpjax.finetuning.setup.steps import noise_stddev_of
from dpjax.privatize import FlatClipping, noisy_mean, sampler_for
from dpjax.training import average_of, keep_average
from tests.finetuning.training.test_devices import assert_same_weights, on_eight_devices
from tests.support.owned_records import make_run
from tests.support.runs import weights

STAGES = {"num_steps": 6, "head_steps": 3, "head_learning_rate": 0.05}
LADDER = {
    "tuning": "last_layers",
    "num_trained_layers": 1,
    "privacy": {"noise_multiplier": 4.0, "delta": 1e-5, "clip_norm": 0.5, "head_clip_norm": 0.2},
    "num_layers": 2,
}


@pytest.fixture
def options(cheap_options, tmp_path):
    options = copy.deepcopy(cheap_options) | copy.deepcopy(LADDER)
    options["training"] |= STAGES | {"head_batch_size": 100}
    return options | {"output_dir": tmp_path / "run"}


@pytest.fixture
def trained(monkeypatch):
    """Runs with options, and returns the result and the parameters that training came to."""

    def run(options):
        found = []

        def train(*args, **kwargs):
            found.append(made := run_of_all(*args, **kwargs))
            return made

        run_of_all = run_module.train
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "train", train)
            result = dpjax.finetune(**options)
        return result, found[0].trainable

    return run


def clipped_sum(loss, params, frozen, batch, norms):
    """The sum of gradients of which each part, by its name, is clipped to its norm."""
    grads = jax.vmap(jax.grad(loss), (None, 0, None))(params, batch, frozen)
    total = {}
    for names, norm in norms:
        part = {name: grads[name] for name in names}
        squares = [jnp.sum(g.reshape(len(g), -1) ** 2, axis=1) for g in jax.tree.leaves(part)]
        factors = jnp.minimum(1.0, norm / jnp.sqrt(sum(squares)))
        total |= jax.tree.map(lambda g, f=factors: jnp.einsum("b,b...->...", f, g), part)
    return total


def by_two_loops(run, training, batch_sizes, ema=None, wrong_noise=False):
    """What a reader would write: each stage a loop with batches, norms and optimizer of its own."""
    plan, model = run.plan, run.model
    loss = plan.task.loss_fn(model.graphdef)
    sampler = sampler_for(plan.mechanism, run.run_key)
    names = set(model.trainable)
    body = names - {"classifier"}
    frozen = jax.tree.map(jnp.asarray, model.frozen)
    trainable = jax.tree.map(jnp.copy, model.trainable)
    head_rate = dataclasses.replace(
        training, learning_rate=training.head_learning_rate, head_learning_rate=None
    )
    stages = [
        (head_rate, {"classifier"}, [({"classifier"}, 0.2)], range(3)),
        (training, names, [({"classifier"}, 0.2), (body, 0.5)], range(3, 6)),
    ]
    for (recipe, chosen, norms, steps), batch_size in zip(stages, batch_sizes, strict=True):
        params = {name: trainable[name] for name in chosen}
        optimizer = make_optimizer(recipe, len(steps))
        optimizer = optimizer if ema is None else keep_average(optimizer, ema)
        state = optimizer.init(params)
        sensitivity = sum(norm**2 for _, norm in norms) ** 0.5
        mechanism = DPSGD(
            num_units=240, expected_batch_size=batch_size, noise_multiplier=4.0, num_steps=6
        )

        def loss_of(params, record, frozen, rest=trainable):
            return loss(rest | params, record, frozen)

        for step in steps:
            rows = sampler.indices(step)
            batch = plan.task.batch(plan.train.take(rows))
            total = clipped_sum(loss_of, params, frozen, batch, norms)
            total = {name: total[name] for name in params}
            mean = noisy_mean(
                total,
                run.run_key.noise_keys(step),
                mechanism=mechanism,
                clip_norm=0.2 if wrong_noise else sensitivity,
            )
            updates, state = optimizer.update(mean, state, params)
            params = optax.apply_updates(params, updates)
        trainable |= params if ema is None else average_of(state, params)
    return trainable


def largest_difference(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, 0.5])
def test_two_loops_with_the_same_draws_come_to_the_same(options, trained, ema):
    options["training"] |= {"ema_decay": ema, "optimizer": "sgd"}
    result, found = trained(options)
    run = make_run(options | {"output_dir": options["output_dir"].with_name("other")})
    recipe = {"optimizer": "sgd", "learning_rate": 1e-2, "head_learning_rate": 0.05}
    recipe = Training(**recipe)
    expected = by_two_loops(run, recipe, (100, 40), ema)
    assert largest_difference(found, expected) < 1e-6
    # With the noise of the first stage in the second, or batches of one size, it would not.
    assert (
        largest_difference(found, by_two_loops(run, recipe, (100, 40), ema, wrong_noise=True))
        > 1e-5
    )
    assert largest_difference(found, by_two_loops(run, recipe, (40, 40), ema)) > 1e-5
    # One key, one report, one ε: that of the composition.
    segments = tuple(
        Segment(expected_batch_size=batch, noise_multiplier=4.0, num_steps=3) for batch in (100, 40)
    )
    assert result.epsilon == DPSGDSchedule(num_units=240, segments=segments).epsilon(1e-5)
    assert [row["step"] for row in result.metrics] == [1, 2, 3, 4, 5, 6]
    assert result.metrics[-1]["epsilon"] == result.epsilon


@pytest.mark.slow
def test_both_stages_can_be_resumed(options, stop_after, tmp_path, capsys):
    """LoRA, Adam and averages: every array of the state counts."""
    options |= {"tuning": "lora", "lora": {"rank": 2, "dropout": 0.1}}
    del options["num_trained_layers"]
    path = tmp_path / "ledger.jsonl"
    options["privacy"] |= {"ledger": str(path)}
    options["training"] |= {"ema_decay": 0.5, "num_steps": 12, "head_steps": 8}
    # The records that all steps of the head read are more than there are.
    whole = dpjax.finetune(**options)
    said = " ".join(capsys.readouterr().out.split())
    assert "the first 8 steps, of the head alone: compute.cache_frozen=auto: what the" in said
    assert said.count("the frozen part of the model is computed for 240 records") == 1
    (entry,) = Ledger(path).entries()
    assert entry.num_steps == 12 and type(entry.mechanism) is DPSGDSchedule
    for step in (3, 8, 10):
        stopped = options | {"output_dir": tmp_path / f"stopped {step}"}
        stopped["privacy"] = options["privacy"] | {"ledger": str(tmp_path / f"{step}.jsonl")}
        assert stop_after(step, **stopped).step == step
        shown = json.loads((stopped["output_dir"] / "privacy.json").read_text())
        assert verify_report(shown) == [] and shown["steps_completed"] == step
        resumed = dpjax.finetune(**stopped, resume=True)
        assert weights(resumed.output_dir) == weights(whole.output_dir)
        assert resumed.epsilon == whole.epsilon
        assert [row["step"] for row in resumed.metrics] == list(range(1, 13))
        assert not (resumed.output_dir / "private").exists()


def test_the_report_says_what_each_stage_adds(options):
    run = make_run(options)
    report = run_module.privacy_report.build(run.plan, run.run_key, "run", 6)
    assert verify_report(report) == []
    stated = report["implementation"]
    both = (0.2**2 + 0.5**2) ** 0.5
    assert stated["clip_norm"] == pytest.approx([0.2, both])
    assert stated["noise_standard_deviation"] == pytest.approx([0.8, 4 * both])
    assert report["run"]["trained"].endswith("the head, after 3 steps of the head alone")
    said = run_module.privacy_report.in_words(run.plan, 6)
    assert "clip norms 0.2 (head) and 0.5 (the rest), 6 steps, the first 3 of the head" in said
    # What a report with the first stage's sensitivity in both would be.
    stated["noise_standard_deviation"] = [0.8, 0.8]
    assert any("noise_standard_deviation" in problem for problem in verify_report(report))


def test_batches_of_one_size_are_one_kind_of_step(options):
    del options["training"]["head_batch_size"]
    plan = make_run(options).plan
    assert plan.mechanism == DPSGD(
        num_units=240, expected_batch_size=40, noise_multiplier=4.0, num_steps=6
    )
    run = make_run(options)
    report = run_module.privacy_report.build(run.plan, run.run_key, "run", 2)
    assert verify_report(report) == []
    assert len(report["implementation"]["noise_standard_deviation"]) == 2


def test_one_noise_multiplier_meets_the_target_of_the_whole(options):
    options["privacy"] = {"target_epsilon": 3.0, "delta": 1e-5}
    mechanism = make_run(options).plan.mechanism
    assert len({segment.noise_multiplier for segment in mechanism.segments}) == 1
    assert 2.99 < mechanism.epsilon(1e-5) <= 3.0
    training = {"expected_batch_size": 40} | {
        name: options["training"][name] for name in ("num_steps", "head_steps", "head_batch_size")
    }
    forecast = dpjax.plan(
        num_units=240, privacy=options["privacy"], training=training, tuning="lora"
    )
    assert forecast.asked.noise_multiplier == mechanism.segments[1].noise_multiplier
    assert (forecast.asked.expected_batch_size, forecast.asked.num_steps) == (40, 6)
    assert forecast.asked.epsilon == mechanism.epsilon(1e-5)


def test_adam_bc_knows_the_noise_of_its_stage(options):
    head, rest = make_run(options).plan.stages
    assert noise_stddev_of(head) == pytest.approx(4 * 0.2 / 100)
    assert noise_stddev_of(rest) == pytest.approx(4 * (0.2**2 + 0.5**2) ** 0.5 / 40)


def test_noise_of_the_first_stage_in_the_second_is_noticed(options, monkeypatch):
    """The noise is read off the clipping rule of the stage: without records nothing else is."""
    run = make_run(options)
    _, plan = run.plan.stages
    params = run.model.trainable

    def noise_of_step():
        nobody = np.zeros(240, bool)
        steps = steps_module.make_steps(
            plan, run.model.graphdef, optax.sgd(1.0), run.run_key, nobody
        )
        copied = jax.tree.map(jnp.copy, params)
        after, _ = steps.update(steps.begin(copied, 4)[0], 4, copied, optax.sgd(1.0).init(copied))
        moved = jax.tree.map(lambda a, b: np.asarray(a - b).ravel(), after, params)
        return float(np.std(np.concatenate(jax.tree.leaves(moved))))

    expected = noise_stddev_of(plan)
    assert noise_of_step() == pytest.approx(expected, rel=0.05)
    monkeypatch.setattr(steps_module, "clipping_rule", lambda plan: FlatClipping(0.2))
    assert noise_of_step() < 0.6 * expected


def test_parts_are_clipped_each_by_itself(options):
    rule = clipping.clipping_rule(make_run(options).plan)
    assert rule.leaf_groups(["classifier.kernel", "transformer.layers.1.bias"]) == (0, 1)
    assert rule.clip_norms == {"head": 0.2, "body": 0.5}


@pytest.mark.slow
def test_canaries_are_in_both_stages(options):
    options["audit"] = {"num_canaries": 40, "most_share": 0.5}
    options["privacy"] |= {"noise_multiplier": 0.5}
    run = make_run(options)
    present = run.audited.present
    for stage in run.plan.stages:
        steps = steps_module.make_steps(
            stage, run.model.graphdef, optax.sgd(0.1), run.run_key, present
        )
        drawn = [
            rows[mask]
            for step in range(stage.first_step, stage.num_steps)
            for rows, mask in steps.batches(step, microbatch_size=16, order=lambda rows: rows)
        ]
        drawn = np.concatenate(drawn)
        assert present[drawn].all()
        # All canaries that a coin left in are likely to be drawn at least once, some surely.
        assert np.sum(drawn >= 240) > 3
    result = run_module.execute(run, Console(quiet=True))
    assert result.audit["verdict"]["conclusion"]


@pytest.mark.slow
def test_a_mesh_of_one_process(options, tmp_path):
    one = dpjax.finetune(**options)
    spread = options | {"output_dir": tmp_path / "data"}
    (found,), _ = on_eight_devices(spread)
    assert found["epsilon"] == one.epsilon
    assert_same_weights(one.output_dir, tmp_path / "data")


@pytest.mark.slow
def test_without_privacy(options):
    options["non_private"] = True
    options["privacy"] = {"clip_norm": 0.5}
    options["training"] |= {"evaluate_every": 2}
    result = dpjax.finetune(**options)
    sizes = [row["num_records"] for row in result.metrics]
    assert min(sizes[:3]) > max(sizes[3:])
    assert [row["step"] for row in result.metrics if "eval_loss" in row] == [2, 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"head_steps": 6}}, "head_steps=6 must be below the 6 steps"),
        ({"training": {"head_steps": 0}}, "head_steps"),
        ({"training": {"head_steps": None}}, "give training.head_steps, or leave it out"),
        ({"training": {"head_batch_size": 241}}, "241 is more than the 240"),
        ({"training": {"head_step": 3}}, "head_steps"),
        ({"tuning": "head", "num_trained_layers": None}, "tuning=head trains the head alone"),
        (
            {"tuning": "head", "num_trained_layers": None, "privacy": {"head_clip_norm": None}},
            "tuning=head trains the head in all steps",
        ),
        ({"privacy": {"head_clip_norm": -1.0}}, "head_clip_norm"),
        (
            {"privacy": {"sampling": "truncated-poisson", "neighboring": "zero_out"}},
            "needs privacy.sampling=poisson",
        ),
        ({"task": "causal_lm", "num_layers": None}, "no meaning with task=causal_lm"),
    ],
)
def test_what_does_not_fit_is_refused(options, changes, words):
    for name, value in changes.items():
        options[name] = options[name] | value if isinstance(value, dict) else value
    with pytest.raises((ValueError, TypeError), match=words):
        make_run(options)


def test_the_length_may_follow_from_epochs(options):
    del options["training"]["num_steps"]
    options["training"] |= {"num_epochs": 1.0}
    assert make_run(options).plan.num_steps == 6
    options["training"] |= {"num_epochs": 0.5}
    with pytest.raises(ValueError, match="must be below the 3 steps"):
        make_run(options)


def test_a_single_record_is_hidden_whichever_stage_reads_it():
    """A run that stops within the first stage has the ε of the steps that are done."""
    parts = [Segment(expected_batch_size=b, noise_multiplier=4.0, num_steps=3) for b in (100, 40)]
    whole = DPSGDSchedule(num_units=240, segments=tuple(parts))
    first = DPSGD(num_units=240, expected_batch_size=100, noise_multiplier=4.0, num_steps=2)
    assert whole.after(2).epsilon(1e-5) == pytest.approx(first.epsilon(1e-5), rel=1e-6)


@pytest.mark.slow
def test_progress_names_the_stage(options):
    options["training"] |= {"head_batch_size": None}
    text = io.StringIO()
    run = make_run(options)
    run_module.execute(run, Console(file=text, width=200))
    assert "step of the head alone, until 3, 1/6" in text.getvalue()
    assert "step 4/6" in text.getvalue()


def test_options_of_the_first_stage():
    config = FinetuneConfig.from_options(
        {
            "model": "model",
            "train_data": "train.csv",
            "eval_data": "eval.csv",
            "output_dir": "run",
            "privacy": {"noise_multiplier": 1.0},
            "training": {"num_steps": 9, "head_steps": 4},
        }
    )
    stage = config.head_stage()
    assert (stage.tuning, stage.training.num_steps) == ("head", 4)
    assert stage.training.learning_rate == config.training.learning_rate
    assert stage.privacy.clip_norm == config.privacy.clip_norm
