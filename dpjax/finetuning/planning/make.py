"""From the options of a run to its forecast."""

from __future__ import annotations

import dataclasses
import datetime

import jax
from dpjax_accounting import default_delta, validate_delta

from dpjax.finetuning.config import PlanConfig
from dpjax.finetuning.planning.advice import advise
from dpjax.finetuning.planning.forecast import Forecast, ModelForecast
from dpjax.finetuning.planning.noise import (
    NoiseChoice,
    compare_batch_sizes,
    compare_with_independent,
    flat_from,
    of_full_batch,
)
from dpjax.finetuning.setup.automatic.cache_frozen import resolve_cache
from dpjax.finetuning.setup.automatic.microbatch_size import chosen_memory
from dpjax.finetuning.setup.automatic.scan_layers import resolve_scan_layers
from dpjax.finetuning.setup.automatic.strategy import describe_clipping
from dpjax.finetuning.setup.automatic.vocab_chunk import resolve_vocab_chunk
from dpjax.finetuning.setup.mechanism import check_extra, find_strategy, fix_noise, make_recipe
from dpjax.finetuning.setup.owners import TrainingRecords
from dpjax.finetuning.setup.plan import Plan, prepare, with_strategy
from dpjax.finetuning.setup.steps import abstract_split, step_programs, units_at_once
from dpjax.finetuning.tasks.registry import make_task
from dpjax.models import count_parameters
from dpjax.training import memory_limit

# Samplings whose runs need not have whole epochs.
_OF_ANY_LENGTH = ("poisson", "truncated-poisson", "fixed-size")
# The batch size of the run times these.
_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)


def make_forecast(config: PlanConfig) -> Forecast:
    """Does what `dpjax.plan` does, for a configuration.

    Raises:
        FileNotFoundError, ValueError: as `dpjax.plan`.

    Example:
        >>> from dpjax.finetuning import PlanConfig, make_forecast
        >>> config = PlanConfig.from_options(
        ...     {"num_units": 4000, "privacy": {"noise_multiplier": 1.0}, "batch_sizes": [256]}
        ... )
        >>> make_forecast(config).asked.num_steps
        47
    """
    config = config.with_eval_data
    check_extra(config.privacy)
    if not config.has_model:
        forecast = _with_noise(config, *_count_units(config), None, None)
    else:
        prepared = resolve_vocab_chunk(resolve_scan_layers(with_strategy(prepare(config), {})))
        prepared = resolve_cache(prepared, {})
        _check_batch_sizes(config, prepared.num_units)
        model = _forecast_model(config, prepared)
        forecast = _with_noise(config, prepared.num_units, prepared.num_units, prepared, model)
    return dataclasses.replace(forecast, advice=advise(forecast))


def _count_units(config: PlanConfig) -> tuple[int, int]:
    """The units that count, and those that are protected: a coin may leave some of them out."""
    if config.num_units is not None:
        num_protected, num_units = config.num_units, config.audit.num_units(config.num_units)
    else:
        records, _ = make_task(config, datetime.datetime.now()).read(config)
        units = TrainingRecords.of(records, config)
        num_protected, num_units = units.num_protected(config), units.num_units(config)
    batch = config.training.expected_batch_size
    if config.privacy.sampling != "full-batch" and batch > num_units:
        raise ValueError(
            f"training.expected_batch_size={batch} is more than the {num_units} training records "
            f"or owners; use at most {num_units}, better a tenth of it"
        )
    _check_batch_sizes(config, num_units)
    return num_units, max(num_units, num_protected)


def _check_batch_sizes(config: PlanConfig, num_units: int) -> None:
    for size in config.batch_sizes:
        if size > num_units:
            raise ValueError(
                f"batch_sizes must be at most the {num_units} training records, got {size}"
            )


def _with_noise(
    config: PlanConfig,
    num_units: int,
    num_protected: int,
    prepared: Plan | None,
    model: ModelForecast | None,
) -> Forecast:
    if config.non_private:
        return Forecast(num_units, None, None, (), (), None, None, model)
    privacy, training = config.privacy, config.training
    if prepared is None:
        delta = default_delta(num_protected) if privacy.delta is None else privacy.delta
        delta = validate_delta(delta, num_protected)
        mechanism = fix_noise(make_recipe(privacy, training, num_units), privacy, delta)
    else:
        delta, mechanism = prepared.delta, prepared.mechanism
    asked = NoiseChoice.of(mechanism, delta)
    sizes = _candidates(config, num_units)
    same = choices = compare_batch_sizes(privacy, training, delta, num_units, sizes)
    if prepared is None:
        strategy = find_strategy(privacy, mechanism, {})
    else:
        strategy = prepared.noise_strategy
    if strategy is not None:
        correlated = compare_with_independent(privacy, training, delta, num_units, asked, strategy)
        return Forecast(num_units, delta, asked, choices, (), None, None, model, correlated)
    any_length = privacy.sampling in _OF_ANY_LENGTH
    if training.num_steps is None and any_length:
        same = compare_batch_sizes(privacy, training, delta, num_units, sizes, asked.num_steps)
    full = of_full_batch(privacy, training, delta, num_units, asked.num_steps)
    has_flat = any_length and privacy.target_epsilon is not None
    return Forecast(
        num_units=num_units,
        delta=delta,
        asked=asked,
        choices=choices,
        at_same_steps=same if any_length else (),
        full_batch=full,
        flat_from=flat_from(privacy, training, delta, full) if has_flat else None,
        model=model,
    )


def _candidates(config: PlanConfig, num_units: int) -> list[int]:
    if config.privacy.sampling == "full-batch":
        return []
    if config.batch_sizes:
        return sorted(set(config.batch_sizes))
    sizes = {int(factor * config.training.expected_batch_size) for factor in _FACTORS}
    return sorted(
        size for size in sizes if 1 <= size <= num_units and _fits(config, num_units, size)
    )


def _fits(config: PlanConfig, num_units: int, size: int) -> bool:
    """Whether groups of correlated noise, or steps after those of the head, allow batches."""
    if config.privacy.noise == "independent" and config.training.head_steps is None:
        return True
    training = dataclasses.replace(config.training, expected_batch_size=size)
    try:
        make_recipe(config.privacy, training, num_units)
    except ValueError:
        return False
    return True


def _forecast_model(config: PlanConfig, prepared: Plan) -> ModelForecast:
    split = abstract_split(prepared)
    programs = step_programs(prepared, split)
    size, given = config.training.microbatch_size, config.compute.device_memory
    if size == "auto":
        limit = memory_limit(given=given)
        memory = chosen_memory(prepared, programs, limit)
    else:
        limit, memory = _limit_if_known(given), programs.memory(size)
    seconds = programs.measure_seconds(memory.microbatch_size) if config.measure else None
    choices = prepared.choices
    if prepared.mechanism is not None:
        choices += (describe_clipping(prepared, split, memory.microbatch_size),)
    return ModelForecast(
        num_trained=count_parameters(split.trainable),
        num_frozen=split.num_frozen,
        memory=memory,
        limit=limit,
        backend=jax.default_backend(),
        max_length=config.training.max_length,
        units_at_once=units_at_once(prepared, memory.microbatch_size),
        seconds=seconds,
        choices=choices,
    )


def _limit_if_known(given: int | None) -> int | None:
    try:
        return memory_limit(given=given)
    except ValueError:
        return None
