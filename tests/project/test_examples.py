"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import dpjax_accounting
import pytest

from dpjax import (
    audit,
    data,
    federated,
    finetuning,
    models,
    privatize,
    synthesis,
    training,
    unlearning,
)


def names_of_modules(package):
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def with_examples(*packages):
    """The names of all modules that have an example in a docstring."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [
        name
        for package in packages
        for name in names_of_modules(package)
        if any(test.examples for test in finder.find(importlib.import_module(name)))
    ]


# They load a checkpoint, or train.
_SLOW = (
    "dpjax.federated.federate",
    "dpjax.federated.set_up",
    "dpjax.finetuning.auditing.poison_audit",
    "dpjax.finetuning.auditing.poisoning",
    "dpjax.finetuning.finetune",
    "dpjax.finetuning.run",
    "dpjax.finetuning.setup.start",
)
_MODULES = [
    "dpjax.basics.lora_config",
    *with_examples(
        audit,
        data,
        dpjax_accounting,
        federated,
        finetuning,
        models,
        privatize,
        synthesis,
        training,
        unlearning,
    ),
]


@pytest.mark.quick_cases(24)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in _MODULES],
)
def test_examples_of(name, tmp_path, monkeypatch):
    # Examples write files where they are run.
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0


@pytest.mark.parametrize(
    "name",
    [
        "DPSGD",
        "DPSGDSchedule",
        "Composition",
        "Ledger",
        "calibrate_noise",
        "claim",
        "default_delta",
        "tpr_ceiling",
        "trade_off",
        "verify_report",
    ],
)
def test_what_is_used_most_has_an_example(name):
    assert ">>> " in getattr(dpjax_accounting, name).__doc__


@pytest.mark.parametrize(
    "name",
    [
        "AdaptiveClipping",
        "AutomaticClipping",
        "FlatClipping",
        "PerGroupClipping",
        "PoissonSampler",
        "CyclicPoissonSampler",
        "FixedSizeSampler",
        "FullBatchSampler",
        "RandomAllocationSampler",
        "RunKey",
        "Sampler",
        "ScheduledPoissonSampler",
        "ShuffledSampler",
        "TruncatedPoissonSampler",
        "clipped_grad",
        "explain",
        "gaussian_noise",
        "noisy_mean",
        "private_gradient",
        "private_zeroth_order_gradient",
        "sampler_for",
        "unit_loss",
    ],
)
def test_every_part_of_private_training_has_an_example(name):
    assert ">>> " in getattr(privatize, name).__doc__


@pytest.mark.parametrize(
    "face", [data, models, finetuning, synthesis, unlearning], ids=lambda face: face.__name__
)
def test_every_public_class_and_function_has_an_example(face):
    public = {name: getattr(face, name) for name in face.__all__}
    assert not [
        name
        for name, value in public.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and ">>> " not in value.__doc__
    ]
