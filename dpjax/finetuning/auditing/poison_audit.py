"""A poisoning audit: models with each privacy, trained one after the other, and their report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
from dpjax_accounting import write_text
from rich.console import Console

from dpjax.audit import (
    PoisonedModel,
    PrivacySetting,
    build_poisoning_report,
    draw_poisoning,
    poisoning_page,
)
from dpjax.finetuning.auditing.poison_config import PoisonConfig
from dpjax.finetuning.auditing.poison_data import PoisonData, prepare_poison
from dpjax.finetuning.auditing.poison_folder import PoisonFolder
from dpjax.finetuning.auditing.poison_models import ComputedOnce, ModelName, PoisonedTraining
from dpjax.finetuning.auditing.poison_result import PoisonResult
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.identity import hash_of_checkpoint
from dpjax.finetuning.setup.start import Run, new_run_key, set_up
from dpjax.privatize import RunKey
from dpjax.training import Interrupts, describe_versions, write_json

# Where it is trained, and who is told, changes no result.
_FREE_OPTIONS = ("resume", "output_dir", "tracking")


def execute_poisoning(config: PoisonConfig, console: Console | None = None) -> PoisonResult:
    """Does what `audit_poisoning` does, of options that are checked.

    Args:
        config: what was asked for.
        console: where progress is shown; default: a new one.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, RunInterrupted, RunStopped: as for that.

    Example:
        >>> from pathlib import Path
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.demo.run import write_data
        >>> train, held_out = write_data(Path("clinic"))
        >>> config = PoisonConfig.from_options(
        ...     {
        ...         "model": str(find_minilm()),
        ...         "train_data": str(train),
        ...         "eval_data": str(held_out),
        ...         "output_dir": "audits/quiet",
        ...         "tuning": "head",
        ...         "num_layers": 1,
        ...         "non_private": True,
        ...         "training": {"num_steps": 1, "max_length": 16},
        ...         "poison": {
        ...             "target": "billing",
        ...             "counts": [1],
        ...             "num_sets": 1,
        ...             "num_clean_models": 1,
        ...         },
        ...     }
        ... )
        >>> execute_poisoning(config, Console(quiet=True)).output_dir.name
        'quiet'
    """
    if jax.process_count() > 1:
        raise ValueError(f"a poisoning audit is for one process, got {jax.process_count()}")
    console = console or Console()
    folder = PoisonFolder(config.output_dir)
    folder.check(resume=config.resume)
    settings = config.settings()
    runs = {name: _set_up(recipe, folder) for name, recipe in settings.items()}
    any_run = next(iter(runs.values()))
    new_key = new_run_key(config)
    # Whatever is wrong with the poison is said before the folder is made.
    data = prepare_poison(any_run.plan, config.poison, new_key)
    stopped = "stopped; the same command with --resume goes on after the models that are finished"
    with folder.lock() as lock, Interrupts() as interrupts, interrupts.saying(stopped, 0):
        key = folder.start_or_go_on(_identity(config, any_run), new_key)
        if key != new_key:
            data = prepare_poison(any_run.plan, config.poison, key)
        models = _train_all(config, runs, data, folder, key, console, interrupts)
        report = _report(config, runs, data, models)
        write_text(folder.page, poisoning_page(report), mode=0o600)
        folder.picture.write_bytes(draw_poisoning(report))
        folder.picture.chmod(0o600)
        # Last: a folder that has it is finished.
        write_json(folder.report, report, mode=0o600)
        folder.finish(lock)
    return PoisonResult(folder.path, report)


def _set_up(recipe: FinetuneConfig, folder: PoisonFolder) -> Run:
    """Checks a recipe. Its own folder is never made: each model has one."""
    run = set_up(
        dataclasses.replace(recipe, output_dir=str(folder.models / "recipe")), adds_records=True
    )
    assert isinstance(run, Run)
    return run


def _identity(config: PoisonConfig, run: Run) -> dict[str, Any]:
    """What must be the same when an audit goes on: all that its models depend on."""
    options: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        group = value if isinstance(value, dict) else {"": value}
        if name not in _FREE_OPTIONS:
            options |= {f"{name}.{inner}".rstrip("."): each for inner, each in group.items()}
    data = {
        "checkpoint": hash_of_checkpoint(run.plan.checkpoint),
        "training records": run.plan.train.fingerprint(),
        "held-out records": run.plan.evaluation.fingerprint(),
    }
    return {**options, **data, "versions": describe_versions()}


def _names(config: PoisonConfig, setting: str, data: PoisonData) -> Iterator[ModelName]:
    """The models of one privacy: clean ones first."""
    poison = config.poison
    for number in range(poison.num_clean_models):
        yield ModelName(setting, number)
    for trigger in data.triggers:
        for count in sorted(poison.counts):
            for poison_set in range(poison.num_sets):
                for number in range(poison.num_keys):
                    yield ModelName(setting, number, trigger.kind, poison_set, count)


def _train_all(
    config: PoisonConfig,
    runs: dict[str, Run],
    data: PoisonData,
    folder: PoisonFolder,
    key: RunKey,
    console: Console,
    interrupts: Interrupts,
) -> list[PoisonedModel]:
    """Trains and measures the models that are not finished, and says what each does."""
    names = {setting: list(_names(config, setting, data)) for setting in runs}
    total, models = sum(map(len, names.values())), []
    console.print(f"{total} models are trained and measured, and deleted", highlight=False)
    computed = ComputedOnce(data, console)
    for setting, run in runs.items():
        training = PoisonedTraining(run, data, computed)
        for name in names[setting]:
            model = folder.finished(name)
            if model is None:
                start = time.monotonic()
                of_model = key.for_instrument(f"poison model/{name.words}")
                model = training.train(name, of_model, folder.directory_of(name), interrupts)
                folder.keep(name, model)
                interrupts.raise_pending()
                seconds = time.monotonic() - start
                console.print(
                    f"{len(models) + 1} of {total}: {name.words}: {_in_words(model)}, "
                    f"{seconds:.1f} s",
                    highlight=False,
                    soft_wrap=True,
                )
            models.append(model)
    return models


def _in_words(model: PoisonedModel) -> str:
    successes = ", ".join(f"{counts.kind} {counts.success:.3f}" for counts in model.counts)
    return f"success of {successes}"


def _report(
    config: PoisonConfig, runs: dict[str, Run], data: PoisonData, models: list[PoisonedModel]
) -> dict[str, Any]:
    settings = []
    for name, run in runs.items():
        mechanism, delta = run.plan.mechanism, run.plan.delta
        if mechanism is None or delta is None:
            settings.append(PrivacySetting(name))
        else:
            settings.append(PrivacySetting(name, mechanism, mechanism.epsilon(delta), delta))
    poison, plan = config.poison, next(iter(runs.values())).plan
    return build_poisoning_report(
        models,
        settings,
        data.triggers,
        target=poison.target,
        confidence=poison.confidence,
        fixed_seed=config.seed is not None,
        details={
            "model": config.model,
            "tuning": config.tuning,
            "training_records": data.num_clean,
            "held_out_records": len(plan.evaluation),
            "place_of_the_trigger": poison.place,
            "poison_sets": poison.num_sets,
            "models_of_each_set": poison.num_keys,
            "clean_models_of_each_privacy": poison.num_clean_models,
            "suspicion": config.generation.suspicion,
        },
    )
