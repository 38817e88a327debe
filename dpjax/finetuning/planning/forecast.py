"""What is known of a run before it starts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from dpjax.finetuning.planning.noise import CorrelatedSums, NoiseChoice
from dpjax.training import StepMemory


@dataclasses.dataclass(frozen=True)
class ModelForecast:
    """What the model costs, from its shapes and the compiled programs of a step.

    Attributes:
        num_trained: parameters that are trained.
        num_frozen: the others.
        memory: of a step, as the compiler of `backend` says.
        limit: bytes that a step may use; None where the device does not tell.
        backend: what the programs were compiled for: cpu, gpu or tpu.
        max_length: tokens of the texts that they were compiled for.
        units_at_once: units of a microbatch: records, or their owners.
        seconds: of a microbatch and of an update, measured on zeros; None if they were not.
        choices: sentences on what is left to dpjax, and why: the strategy of clipping, and the
            tokens whose logits are held at once.

    Example:
        >>> from dpjax.finetuning import ModelForecast
        >>> memory = StepMemory(100, 8, 4, 1, 1000, 10, 10, microbatch_size=8)
        >>> cost = ModelForecast(10, 90, memory, 1000, "cpu", 128, 8, seconds=(0.5, 0.1))
        >>> cost.seconds_of_run(expected_batch_size=20, num_steps=10)
        16.0
    """

    num_trained: int
    num_frozen: int
    memory: StepMemory
    limit: int | None
    backend: str
    max_length: int
    units_at_once: int
    seconds: tuple[float, float] | None
    choices: tuple[str, ...] = ()

    def seconds_of_run(self, expected_batch_size: int, num_steps: int) -> float | None:
        """How long all steps take with texts of the greatest length; None if it is not known."""
        if self.seconds is None:
            return None
        microbatch, update = self.seconds
        pieces = math.ceil(expected_batch_size / self.units_at_once)
        return num_steps * (pieces * microbatch + update)

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers, ready for JSON."""
        return dataclasses.asdict(self) | {"memory": self.memory.to_dict()}


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run would cost.

    Attributes:
        num_units: records that count in the guarantee.
        delta: δ; None without privacy, as are the following.
        asked: the noise of the run itself.
        choices: that of other batch sizes, with as many epochs, or steps where these were given.
        at_same_steps: the same with as many steps as the run; empty where the sampling has whole
            epochs, or always all records.
        full_batch: the noise of all records in each of the run's steps; None where noise is
            correlated.
        flat_from: about the batch size from which noise hardly falls at this number of steps; None
            where the noise was given or is correlated.
        model: None without a model.
        correlated: what noise that is correlated over steps gains; None of independent noise.
        advice: sentences.

    Example:
        >>> import dpjax
        >>> from dpjax.finetuning import Forecast
        >>> forecast: Forecast = dpjax.plan(num_units=4000, privacy={"noise_multiplier": 1.0})
        >>> forecast.asked.expected_batch_size, forecast.model is None
        (256, True)
    """

    num_units: int
    delta: float | None
    asked: NoiseChoice | None
    choices: tuple[NoiseChoice, ...]
    at_same_steps: tuple[NoiseChoice, ...]
    full_batch: NoiseChoice | None
    flat_from: int | None
    model: ModelForecast | None
    correlated: CorrelatedSums | None = None
    advice: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns everything, ready for JSON."""
        return {
            "num_units": self.num_units,
            "delta": self.delta,
            "asked": None if self.asked is None else self._numbers(self.asked),
            "choices": [self._numbers(choice) for choice in self.choices],
            "at_same_steps": [self._numbers(choice) for choice in self.at_same_steps],
            "full_batch": None if self.full_batch is None else self._numbers(self.full_batch),
            "flat_from": self.flat_from,
            "model": None if self.model is None else self.model.to_dict(),
            "correlated": None if self.correlated is None else dataclasses.asdict(self.correlated),
            "advice": list(self.advice),
        }

    def _numbers(self, choice: NoiseChoice) -> dict[str, Any]:
        if self.model is None:
            return choice.to_dict()
        batch, steps = choice.expected_batch_size, choice.num_steps
        return choice.to_dict() | {
            "relative_norm": choice.relative_norm(self.model.num_trained),
            "seconds": self.model.seconds_of_run(batch, steps),
        }
