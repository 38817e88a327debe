"""The mechanism of a run: how batches are drawn, how many, and how much noise they get."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

from dpjax_accounting import (
    DPSGD,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    DPSGDSchedule,
    FixedSizeDPSGD,
    FullBatch,
    LaplaceDPSGD,
    RandomAllocationDPSGD,
    Segment,
    ShuffledDPSGD,
    Stepwise,
    TruncatedPoissonDPSGD,
    UserLevelDPSGD,
    UserSampledAdaptiveClippingDPSGD,
    UserSampledDPSGD,
    calibrate_noise_of,
)

from dpjax.finetuning.config import Privacy, Training, check_some_are_left
from dpjax.privatize import AdaptiveClipping, NoiseStrategy, StepNoise, step_noise
from dpjax.training import default_strategy

DEFAULT_EPOCHS = 3.0
# Batches are cut at B + 6√B records, which costs next to nothing: TruncatedPoissonDPSGD.
_DEVIATIONS = 6.0


def make_recipe(privacy: Privacy, training: Training, num_units: int) -> Stepwise:
    """Makes the mechanism of the options, with the noise that is given, or 1 where none is.

    Without privacy it says how batches are drawn, and nothing else of it counts.

    Args:
        privacy: the promise, and how batches are drawn.
        training: how large they are, and the length of the run.
        num_units: what batches are drawn from: records or owners.

    Raises:
        ValueError: whole epochs are accounted for, and the length of the run is no whole number of
            them; or the package that accounts for them is missing; or the groups of correlated
            noise are smaller than a batch; or the steps that train the head alone do not fit.
    """
    common: dict[str, Any] = {"num_units": num_units, "noise_multiplier": 1.0}
    if privacy.noise_multiplier is not None:
        common["noise_multiplier"] = privacy.noise_multiplier
    if privacy.is_given:
        common["neighboring"] = privacy.neighboring
    batch = training.expected_batch_size
    if privacy.owner_sampling == "records":
        # All records in each step are what `plan` compares to.
        batch = num_units if privacy.sampling == "full-batch" else batch
        return UserLevelDPSGD(
            num_records=common.pop("num_units"),
            expected_batch_size=batch,
            num_steps=_steps_of_both(training, num_units, batch),
            records_per_user=privacy.records_per_owner,
            **common,
        )
    if privacy.noise != "independent":
        steps = _steps(training, num_units, batch)
        bands = _bands(privacy, num_units, batch, steps)
        return BandedDPSGD(
            expected_batch_size=batch, num_steps=steps, bands=bands, column_norm=1.0, **common
        )
    if privacy.noise_distribution == "laplace":
        steps = _steps_of_both(training, num_units, batch)
        return LaplaceDPSGD(expected_batch_size=batch, num_steps=steps, **common)
    match privacy.sampling:
        case "truncated-poisson":
            return TruncatedPoissonDPSGD(
                expected_batch_size=batch,
                largest_batch_size=min(num_units, math.ceil(batch + _DEVIATIONS * batch**0.5)),
                num_steps=_steps(training, num_units, batch),
                **common,
            )
        case "fixed-size":
            steps = _steps(training, num_units, batch)
            return FixedSizeDPSGD(batch_size=batch, num_steps=steps, **common)
        case "random-allocation":
            if privacy.is_given:
                _check_accountant()
            per_epoch = math.ceil(num_units / batch)
            epochs = _epochs(privacy, training, per_epoch)
            return RandomAllocationDPSGD(batches_per_epoch=per_epoch, num_epochs=epochs, **common)
        case "shuffled":
            epochs = _epochs(privacy, training, math.ceil(num_units / batch))
            return ShuffledDPSGD(batch_size=batch, num_epochs=epochs, **common)
        case "full-batch":
            return FullBatch(num_steps=_steps(training, num_units, num_units), **common)
    steps = _steps_of_both(training, num_units, batch)
    if training.head_batch_size not in (None, batch):
        return _in_stages(training, steps, **common)
    return DPSGD(expected_batch_size=batch, num_steps=steps, **common)


def _in_stages(
    training: Training, num_steps: int, *, noise_multiplier: float, **common: Any
) -> DPSGDSchedule:
    """Makes the schedule of a run whose first steps have batches of another size."""
    steps, size = training.head_steps, training.head_batch_size
    assert steps is not None and size is not None
    if size > common["num_units"]:
        raise ValueError(
            f"training.head_batch_size={size} is more than the {common['num_units']} training "
            f"records; use at most {common['num_units']}"
        )
    parts = ((size, steps), (training.expected_batch_size, num_steps - steps))
    segments = tuple(
        Segment(expected_batch_size=batch, noise_multiplier=noise_multiplier, num_steps=length)
        for batch, length in parts
    )
    return DPSGDSchedule(segments=segments, **common)


def fix_noise(recipe: Stepwise, privacy: Privacy, delta: float) -> Stepwise:
    """Returns the mechanism with the noise multiplier given, or calibrated to the target ε.

    With `privacy.target_quantile` it is one that also releases a count in every step.

    Raises:
        ValueError: no noise multiplier meets the target, or the count has too little noise.
    """
    if privacy.target_epsilon is not None:
        try:
            recipe = calibrate_noise_of(recipe, privacy.target_epsilon, delta)
        except ArithmeticError as error:
            raise ValueError(
                f"privacy.target_epsilon={privacy.target_epsilon:g} cannot be met: {error}"
            ) from error
    return recipe if privacy.target_quantile is None else _with_count(recipe, privacy)


def _with_count(recipe: Stepwise, privacy: Privacy) -> AdaptiveClippingDPSGD:
    """Shares the noise of each step out to the sum and a count: ε stays that of `recipe`."""
    if not isinstance(recipe, DPSGD):
        raise TypeError(
            "a clip norm that adapts is accounted for with DPSGD, got " + type(recipe).__name__
        )
    together, count_stddev = recipe.noise_multiplier, privacy.count_stddev
    if count_stddev is None:
        count_stddev = max(recipe.expected_batch_size / 20, 2 * together)
    if not 2 * count_stddev > together:
        raise ValueError(
            f"privacy.count_stddev={count_stddev:g} is too little noise where the noise multiplier "
            f"of count and gradient together is {together:.4g}: the count alone would spend more "
            f"than that. Give {2 * together:.3g} or more, or leave it out"
        )
    try:
        scales = AdaptiveClipping(count_stddev=count_stddev).noise_scales(recipe)
    except ValueError as error:
        raise ValueError(f"privacy.{error}") from None
    fields: dict[str, Any] = {
        "num_units": recipe.num_units,
        "expected_batch_size": recipe.expected_batch_size,
        "num_steps": recipe.num_steps,
        "neighboring": recipe.neighboring,
        "count_stddev": count_stddev,
        # Rounding must not leave both together less noise than was calibrated.
        "gradient_noise_multiplier": scales.gradient_noise_multiplier * (1 + 1e-12),
    }
    if isinstance(recipe, UserSampledDPSGD):
        users = recipe.records_per_user
        return UserSampledAdaptiveClippingDPSGD(**fields, records_per_user=users)
    return AdaptiveClippingDPSGD(**fields)


def noise_of(mechanism: Stepwise, step: int) -> StepNoise:
    """Returns σ and B of a step; σ is that of the draws, where noise is correlated.

    Where the clip norm adapts, σ is that of the gradient; of Laplace noise it is the scale.
    """
    if isinstance(mechanism, AdaptiveClippingDPSGD):
        return StepNoise(mechanism.gradient_noise_multiplier, mechanism.expected_batch_size)
    if isinstance(mechanism, BandedDPSGD | LaplaceDPSGD):
        return StepNoise(mechanism.noise_multiplier, mechanism.expected_batch_size)
    return step_noise(mechanism, step)


def check_extra(privacy: Privacy) -> None:
    """Raises ValueError if the package that makes correlated noise is missing."""
    if privacy.noise != "independent" and importlib.util.find_spec("jax_privacy") is None:
        raise ValueError(
            f"privacy.noise={privacy.noise} is made by the package jax_privacy, which is not "
            'installed. Install it with pip install "dpjax[correlated]", or leave out privacy.noise'
        )


def find_strategy(
    privacy: Privacy, mechanism: Stepwise, stored: Mapping[str, Any]
) -> NoiseStrategy | None:
    """Returns the strategy matrix of correlated noise: that of the start, or the optimized one.

    Args:
        privacy: says which kind.
        mechanism: of the run.
        stored: the identity of the run that is resumed; empty for a new one.

    Raises:
        ValueError: what is stored is damaged.
    """
    if not isinstance(mechanism, BandedDPSGD):
        return None
    return default_strategy(mechanism, stored, is_buffered=privacy.noise == "blt")


def _bands(privacy: Privacy, num_units: int, batch: int, steps: int) -> int:
    """Bands of the strategy, which are groups of records too: all steps, for buffers."""
    most = num_units // batch
    if privacy.bands is None:
        if not 2 <= steps <= most:
            raise ValueError(
                f"privacy.noise=blt has each record in one step at most, and at least 2 steps, got "
                f"{steps} steps with batches of {batch} of {num_units} records. "
                + _give("training.num_steps", most)
            )
        return steps
    most = min(most, steps)
    if privacy.bands > most:
        raise ValueError(
            f"privacy.bands={privacy.bands} must be at most the {steps} steps of the run, and leave"
            f" a batch of {batch} records in each of as many groups of {num_units}. "
            + _give("privacy.bands", most)
        )
    return privacy.bands


def _give(option: str, most: int) -> str:
    if most < 2:
        return "Give a smaller training.expected_batch_size, or leave out privacy.noise"
    return f"Give {option}={most} or less, or a smaller training.expected_batch_size"


def _steps(training: Training, num_units: int, batch_size: int) -> int:
    """Optimizer steps of the run: as given, or ⌈epochs · n / B⌉."""
    if training.num_steps is not None:
        return training.num_steps
    epochs = DEFAULT_EPOCHS if training.num_epochs is None else training.num_epochs
    return math.ceil(epochs * num_units / batch_size)


def _steps_of_both(training: Training, num_units: int, batch_size: int) -> int:
    """Likewise, of a run that may have steps that train the head alone."""
    steps = _steps(training, num_units, batch_size)
    if training.head_steps is not None:
        check_some_are_left(training.head_steps, steps)
    return steps


def _epochs(privacy: Privacy, training: Training, steps_of_one: int) -> int:
    """Epochs of the run, which must be whole."""
    if training.num_steps is not None:
        epochs, left = divmod(training.num_steps, steps_of_one)
        if left:
            raise ValueError(
                f"training.num_steps={training.num_steps} is no whole number of epochs of "
                f"{steps_of_one} steps, which privacy.sampling={privacy.sampling} accounts for. "
                f"Give training.num_steps={(epochs + 1) * steps_of_one}"
            )
        return epochs
    wanted = DEFAULT_EPOCHS if training.num_epochs is None else training.num_epochs
    if wanted != int(wanted):
        raise ValueError(
            f"training.num_epochs={wanted} must be a whole number with privacy.sampling="
            f"{privacy.sampling}, which accounts for whole epochs. Give training.num_epochs="
            f"{math.ceil(wanted)}"
        )
    return int(wanted)


def _check_accountant() -> None:
    if importlib.util.find_spec("PLD_accounting") is None:
        raise ValueError(
            "privacy.sampling=random-allocation is accounted for by the package PLD_accounting, "
            'which is not installed. Install it with pip install "dpjax[allocation]", or give '
            "another privacy.sampling"
        )
