"""compute.scan_layers=auto: which models run in a loop, and what a run says of it."""

import dataclasses
import json

import pytest
from transformers import GPT2Config

import dpjax
from dpjax.finetuning import FinetuneConfig
from dpjax.finetuning.setup.automatic import scan_layers
from dpjax.finetuning.setup.automatic.scan_layers import choose_loop, resolve_scan_layers
from dpjax.models import parse_config
from tests.support.owned_records import make_run

DEEP = parse_config(GPT2Config(n_embd=8, n_head=2, n_layer=12).to_dict())
BERT = dataclasses.replace(DEEP, model_type="bert")


def resolve(folder, model=DEEP, **options):
    files = {"model": "m", "train_data": "t.csv", "eval_data": "e.csv", "output_dir": "o"}
    config = FinetuneConfig.from_options(files | {"non_private": True} | options)
    return choose_loop(config, folder, model)


def test_deep_models_run_in_a_loop(tmp_path):
    said = "compute.scan_layers=auto: the 12 layers run in a loop, which compiles faster"
    assert resolve(tmp_path) == (True, (said,))
    assert resolve(tmp_path, tuning="head")[0]
    assert resolve(tmp_path, num_layers=8)[0]
    assert resolve(tmp_path, lora={"target_modules": ("c_attn",), "modules_to_save": ("ln_1",)})[0]


def test_shallow_models_are_unrolled_and_answers_are_left_alone(tmp_path, cheap_options):
    assert resolve(tmp_path, num_layers=7) == (False, ())
    run = make_run(cheap_options | {"output_dir": tmp_path / "auto"})
    assert run.plan.config.compute.scan_layers is False
    asked = cheap_options | {"output_dir": tmp_path / "loop", "compute": {"scan_layers": True}}
    loop = make_run(asked).plan
    assert resolve_scan_layers(loop) is loop


def test_a_run_of_a_deep_model_says_that_it_loops(tmp_path, cheap_options, monkeypatch):
    monkeypatch.setattr(scan_layers, "_LEAST_LAYERS", 2)
    deep = cheap_options | {"num_layers": None, "output_dir": tmp_path / "run"}
    plan = make_run(deep).plan
    assert plan.config.compute.scan_layers is True
    assert plan.choices[0] == (
        "compute.scan_layers=auto: the 2 layers run in a loop, which compiles faster"
    )
    assert plan.options()["compute"]["scan_layers"] is True


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tuning": "last_layers", "num_trained_layers": 2}, "only some are trained"),
        ({"lora": {"layers_to_transform": (10, 11)}}, "only some get adapters"),
        ({"lora": {"start_a": "principal"}}, "lora.start_a=principal looks at what enters each"),
        ({"lora": {"target_modules": r".*\.c_attn"}}, "a pattern names what gets adapters"),
        ({"lora": {"target_modules": ("h.3.attn.c_attn",)}}, "'h.3.attn.c_attn' lies in one of"),
        ({"lora": {"modules_to_save": ("h.3.ln_1",)}}, "'h.3.ln_1' lies in one of them"),
        ({"lora": {"exclude_modules": r".*\.c_attn"}}, "a pattern names what gets adapters"),
        ({"lora": {"exclude_modules": ("h.3.mlp.c_fc",)}}, "'h.3.mlp.c_fc' lies in one of them"),
        ({"lora": {"rank_pattern": (r"h\.(3|4)\..*=2",)}}, "lies in one of them"),
    ],
)
def test_layers_that_are_treated_differently_have_arrays_of_their_own(tmp_path, options, why):
    is_loop, (said,) = resolve(tmp_path, **options)
    assert not is_loop
    assert said.startswith("compute.scan_layers=auto: the 12 layers are compiled one by one, ")
    assert why in said


def test_a_layer_appended_for_the_mean_keeps_them_apart(tmp_path):
    assert resolve(tmp_path, BERT)[0]
    assert not resolve(tmp_path, BERT, pooling="mean")[0]
    assert resolve(tmp_path, BERT, task="token_classification")[0]
    # A checkpoint that a run wrote has that layer already, and no file that says so.
    assert not resolve(tmp_path, dataclasses.replace(BERT, averaging_layer=True))[0]
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True})
    )
    assert not resolve(tmp_path, BERT)[0]
    assert resolve(tmp_path, BERT, pooling="first")[0]


def test_a_misspelt_answer_is_refused():
    with pytest.raises(ValueError, match=r"compute.scan_layers must be one of auto, got 'aut'"):
        dpjax.Compute(scan_layers="aut")
