"""Fine-tuning with a clip norm that follows a quantile: records and owners, what does not fit."""

import json

import pytest
from dpjax_accounting import (
    AdaptiveClippingDPSGD,
    UserSampledAdaptiveClippingDPSGD,
    mechanism_from_dict,
    verify_report,
)

import dpjax
from dpjax.finetuning import FinetuneConfig, Privacy, Training
from dpjax.finetuning.planning.noise import NoiseChoice, of_full_batch
from dpjax.finetuning.setup.mechanism import fix_noise, make_recipe
from tests.support.owned_records import owned_file


@pytest.fixture
def options(tiny_checkpoint, train_file, eval_file, tmp_path):
    return {
        "model": tiny_checkpoint,
        "train_data": {"path": str(train_file)},
        "eval_data": eval_file,
        "output_dir": tmp_path / "run",
        "tuning": "head",
        "privacy": {"noise_multiplier": 2.0, "target_quantile": 0.5, "delta": 1e-4},
        "training": {"num_steps": 3, "expected_batch_size": 32, "max_length": 16},
        "seed": 3,
    }


@pytest.mark.slow
@pytest.mark.parametrize("has_owners", (False, True))
def test_a_run_counts_both_releases(options, has_owners, train_file, tmp_path):
    if has_owners:
        names = [f"phone {i % 120}" for i in range(240)]
        path = str(owned_file(train_file, tmp_path / "owned.csv", names))
        options["train_data"] = {"path": path, "owner_column": "author"}
    options["training"]["ema_decay"] = 0.5
    result = dpjax.finetune(**options)
    report = json.loads((options["output_dir"] / "privacy.json").read_text())
    assert verify_report(report) == []
    kind = UserSampledAdaptiveClippingDPSGD if has_owners else AdaptiveClippingDPSGD
    mechanism = mechanism_from_dict(report["mechanism"])
    assert isinstance(mechanism, kind)
    assert mechanism.noise_multiplier == pytest.approx(2.0, rel=1e-9)
    assert result.epsilon == mechanism.epsilon(1e-4)
    assert len({row["clip_norm"] for row in result.metrics}) == 3


def test_a_plan_compares_batches_with_the_noise_of_gradients():
    promise = Privacy(target_epsilon=3.0, target_quantile=0.5, count_stddev=4.0)
    recipe = Training(num_steps=50, expected_batch_size=64)
    mechanism = fix_noise(make_recipe(promise, recipe, 4000), promise, 1e-5)
    asked = NoiseChoice.of(mechanism, 1e-5)
    assert asked.noise_multiplier == mechanism.gradient_noise_multiplier
    assert asked.epsilon <= 3.0
    assert of_full_batch(promise, recipe, 1e-5, 4000, 50).relative_noise < asked.relative_noise


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"privacy": {"head_clip_norm": 1.0}, "tuning": "full"}, "one count follows one clip norm"),
        ({"privacy": {"sampling": "shuffled", "neighboring": "zero_out"}}, "does not go with"),
        ({"training": {"optimizer": "adam-bc"}}, "training.optimizer=adam-bc does not go with"),
        ({"training": {"gradient": "zeroth-order"}}, "training.gradient=zeroth-order does not go"),
        ({"training": {"head_steps": 1}, "tuning": "full"}, "training.head_steps=1 does not go"),
        ({"privacy": {"neighboring": "replace_one"}}, "privacy.neighboring=replace_one does not"),
    ),
)
def test_what_is_not_accounted_for_is_refused(options, changes, words):
    for name, value in changes.items():
        options[name] = options[name] | value if isinstance(value, dict) else value
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    with pytest.raises(ValueError, match=words):
        FinetuneConfig.from_options(options | paths)
