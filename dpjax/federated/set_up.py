"""From the options of a federated run to a run that can start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dpjax.federated.config import FederatedConfig
from dpjax.federated.option_names import in_names_of_command, naming_options
from dpjax.federated.rounds import ClientRounds
from dpjax.federated.run_config import FederatedRunConfig
from dpjax.finetuning import FinetuneResult, execute, set_up
from dpjax.training import Callback


def set_up_federated(config: FederatedConfig) -> Any:
    """Does all that can fail because of what was asked, for `dpjax.finetuning.execute`.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what was wrong, the value seen, what to do.
        RunInUse: another process has the folder.

    Example:
        >>> from pathlib import Path
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.demo.run import write_data
        >>> train, held_out = write_data(Path("clinic"))
        >>> files = {"train_data": str(train), "eval_data": str(held_out), "output_dir": "run"}
        >>> options = {"model": str(find_minilm()), "privacy": {"target_epsilon": 3.0}} | files
        >>> clients = {"clients": {"num_clients": 400, "dirichlet_alpha": 0.5}}
        >>> run = set_up_federated(FederatedConfig.from_options(options | clients))
        >>> run.plan.mechanism.unit, run.plan.num_steps
        ('user', 50)
    """
    with naming_options(config.eval_data.path):
        run_config = FederatedRunConfig.of(config)
        run: Any = set_up(run_config, ClientRounds(run_config))
    # A run that only forgets its secrets has nothing to say.
    if not hasattr(run, "notices"):
        return run
    return dataclasses.replace(run, notices=tuple(map(in_names_of_command, run.notices)))


def execute_federated(
    run: Any, console: Console | None = None, callbacks: Sequence[Callback] = ()
) -> FinetuneResult:
    """Trains, writes the tuned model, evaluates, attacks and reports, as `execute` of a run.

    Args:
        run: what `set_up_federated` made.
        console: where progress is shown; default: a new one.
        callbacks: are told of each round.

    Raises:
        RunInterrupted, RunStopped, RunInUse: as `dpjax.finetuning.execute`.
    """
    with naming_options():
        return execute(run, console, callbacks)
