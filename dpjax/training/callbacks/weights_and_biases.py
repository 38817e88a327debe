"""The metrics of a run in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpjax.training.callbacks.callback import RELEASED_METRICS


class WeightsAndBiases:
    """Sends ε by step to Weights & Biases, and losses only where that is asked for.

    Args:
        project: name of the project there.
        private_metrics: whether numbers are sent too that were computed from the private records
            without noise, such as losses. No ε covers them: they leave this machine.

    Raises:
        ImportError: the package wandb is missing.
    """

    def __init__(self, project: str, *, private_metrics: bool = False) -> None:
        try:
            import wandb
        except ImportError:
            raise ImportError(
                "WeightsAndBiases needs the package wandb: pip install 'dpjax[wandb]'"
            ) from None
        self._private_metrics = private_metrics
        self._run = wandb.init(project=project)

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Sends the numbers of a step."""
        sent = {
            name: value
            for name, value in row.items()
            if value is not None and (self._private_metrics or name in RELEASED_METRICS)
        }
        self._run.log(sent, step=row["step"])

    def on_end(self) -> None:
        """Ends the run there."""
        self._run.finish()
