"""The options of where the numbers of each step are shown."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING

from dpjax.basics.option_checks import CheckedOptions

if TYPE_CHECKING:
    from dpjax.training import Callback


@dataclasses.dataclass(frozen=True)
class Tracking(CheckedOptions):
    """Who is told of each step, beside metrics.jsonl; changes nothing of the run.

    Example:
        >>> Tracking().make_callbacks()
        []
    """

    tensorboard: str | None = None
    """Folder in which TensorBoard finds every number of each step: keep it as private as the
    records. Needs the extra `tensorboard`."""
    wandb_project: str | None = None
    """Project at Weights & Biases that gets step and ε. Needs the extra `wandb`."""
    wandb_private_metrics: bool = False
    """Send losses and counts there too, which no ε covers: they leave this machine."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit, or the package of a tracker is missing."""
        if self.wandb_private_metrics and self.wandb_project is None:
            raise ValueError(
                "tracking.wandb_private_metrics=True goes with tracking.wandb_project: give a "
                "project, or leave it out"
            )
        for option, value, package in (
            ("tensorboard", self.tensorboard, "tensorboard"),
            ("wandb_project", self.wandb_project, "wandb"),
        ):
            if value is not None and importlib.util.find_spec(package) is None:
                raise ValueError(
                    f"tracking.{option}={value} needs the package {package}: pip install "
                    f"'dpjax[{package}]'"
                )

    def make_callbacks(self) -> list[Callback]:
        """Opens the trackers that are asked for."""
        from dpjax.training import TensorBoard, WeightsAndBiases

        callbacks: list[Callback] = []
        if self.tensorboard is not None:
            callbacks.append(TensorBoard(self.tensorboard))
        if self.wandb_project is not None:
            callbacks.append(
                WeightsAndBiases(self.wandb_project, private_metrics=self.wandb_private_metrics)
            )
        return callbacks
