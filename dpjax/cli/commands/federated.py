"""`dpjax federated`: one simulated federated run from its options to its reports."""

from __future__ import annotations

import dataclasses
import functools

from dpjax.cli.commands.finetune import ReadyRun, what_is_left
from dpjax.federated import FederatedConfig


@dataclasses.dataclass(frozen=True)
class FederatedCommand:
    """A federated run with these options."""

    config: FederatedConfig

    def prepare(self) -> ReadyRun:
        """Sets the run up, which checks everything but the training itself."""
        from dpjax.federated import execute_federated, set_up_federated

        return ReadyRun(functools.partial(execute_federated, set_up_federated(self.config)))

    def what_is_left(self) -> str:
        """Returns a sentence on what is stored of a run that failed; empty if nobody can tell."""
        return what_is_left(self.config.output_dir)
