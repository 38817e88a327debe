"""compute.cache_frozen=auto: when something is computed once, what is said, what a run keeps."""

import copy
import dataclasses

import jax
import pytest

import dpjax
from dpjax.finetuning import Compute
from dpjax.finetuning.setup.automatic import cache_frozen
from dpjax.finetuning.setup.automatic.cache_frozen import resolve_cache
from dpjax.finetuning.setup.automatic.strategy import describe_clipping
from dpjax.finetuning.setup.steps import abstract_batch, abstract_split, step_programs
from tests.support.owned_records import make_run


@pytest.fixture
def options(cheap_options, tmp_path):
    options = copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
    options["training"] |= {"num_steps": 40}
    return options


@pytest.fixture
def plan(options):
    return make_run(options).plan


def before_the_choice(plan):
    return dataclasses.replace(plan, features=None, choices=())


def test_a_head_reads_what_was_computed_once(plan):
    (said,) = plan.choices
    assert said == (
        "compute.cache_frozen=auto: what the frozen part of the model makes of a record is "
        "computed once, before the first step: 16 numbers for each record, at most 0 MB of this "
        "machine's memory. That saves each step 100% of the multiplications of a forward pass"
    )
    assert not plan.features.has_tokens
    assert plan.features.bytes_of_longest == 64
    # What is compiled and priced beforehand is what steps do.
    batch = abstract_batch(plan, 8)
    assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [(8, 16), (8,)]
    assert step_programs(plan, abstract_split(plan)).memory(8).microbatch == 8 * 16 * 4 + 8 * 4
    assert "for texts of" not in describe_clipping(plan, abstract_split(plan), 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "full"},
        {"tuning": "bias"},
        {"tuning": "lora"},
        {"tuning": "lora", "lora": {"target_modules": ("query",)}},
        {"tuning": "lora", "num_layers": None, "lora": {"layers_to_transform": (0,)}},
        {
            "tuning": "lora",
            "num_layers": None,
            "lora": {"layers_to_transform": (1,), "dropout": 0.1},
        },
        {"compute": {"cache_frozen": "never"}},
    ],
)
def test_elsewhere_steps_compute_everything_and_nothing_is_said(options, changes):
    plan = make_run(options | changes).plan
    assert plan.features is None and plan.choices == ()


def test_layers_in_a_loop_are_frozen_as_a_whole(options):
    looped = {"num_layers": None, "compute": {"scan_layers": True}}
    assert make_run(options | looped).plan.features.bytes_of_longest == 64


def test_steps_that_read_few_records_compute_them(options):
    options["training"] |= {"num_steps": 6}
    plan = make_run(options).plan
    assert plan.features is None
    assert plan.choices == (
        "compute.cache_frozen=auto: steps compute the frozen part of the model again, because all "
        "steps together read about 240 records, and there are 240",
    )


def test_what_does_not_fit_into_memory_is_computed_again(plan, monkeypatch):
    monkeypatch.setattr(cache_frozen, "host_memory", lambda: 4 * 240 * 64)
    assert resolve_cache(before_the_choice(plan), {}).features is not None
    monkeypatch.setattr(cache_frozen, "host_memory", lambda: 4 * 240 * 64 - 4)
    resolved = resolve_cache(before_the_choice(plan), {})
    assert resolved.features is None
    assert "would take up to 0 MB, and 1/4 of this machine's memory is 0 MB" in resolved.choices[0]


def test_canaries_count(options, monkeypatch):
    audit = {"num_canaries": 40, "most_share": 0.5}
    options["privacy"] |= {"noise_multiplier": 0.5}
    assert make_run(options | {"audit": audit}).plan.features is not None
    monkeypatch.setattr(cache_frozen, "host_memory", lambda: 4 * 240 * 64)
    assert make_run(options | {"audit": audit}).plan.features is None


def test_several_processes_compute_everything(plan, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for stored in ({}, {"computed_once": True}):
        resolved = resolve_cache(before_the_choice(plan), stored)
        assert resolved.features is None
        assert "because several processes train" in resolved.choices[0]


def test_a_resumed_run_keeps_what_it_was_started_with(plan, monkeypatch):
    resolved = resolve_cache(before_the_choice(plan), {"computed_once": False})
    assert resolved.features is None
    assert "because the run was started so" in resolved.choices[0]
    monkeypatch.setattr(cache_frozen, "host_memory", lambda: 1)
    assert resolve_cache(before_the_choice(plan), {"computed_once": True}).features is not None


def test_what_a_run_keeps_of_it(options):
    assert make_run(options).identity["computed_once"] is True
    never = {"compute": {"cache_frozen": "never"}}
    assert make_run(options | never).identity["computed_once"] is False


def test_nothing_is_found_where_a_program_cannot_be_read(plan, monkeypatch):
    def refuse(*_):
        raise dpjax.privatize.UnreadableProgramError("new")

    monkeypatch.setattr(cache_frozen, "find_features", refuse)
    assert resolve_cache(before_the_choice(plan), {}).features is None


@pytest.mark.parametrize(
    ("value", "words"), [("atuo", "Did you mean 'auto'"), ("yes", "auto, never")]
)
def test_misspelt_ways_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        Compute(cache_frozen=value)


@pytest.mark.slow
def test_the_plan_says_what_a_run_does(options):
    names = ("resume", "overwrite", "seed")
    given = {name: value for name, value in options.items() if name not in names}
    forecast = dpjax.plan(**given).to_dict()["model"]
    assert "computed once, before the first step" in forecast["choices"][0]
    assert forecast["memory"]["microbatch"] == 16 * (16 * 4 + 4)
