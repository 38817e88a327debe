"""`dpjax.federated.federate`: a whole federated run as one function call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dpjax.federated.config import FederatedConfig

if TYPE_CHECKING:
    from dpjax.finetuning import FinetuneResult


def federate(**options: Any) -> FinetuneResult:
    """Simulates federated fine-tuning with (ε, δ)-differential privacy for each client.

    A round draws clients by Poisson sampling. Each trains on its own records for some steps, from
    the parameters of the server; the change of the parameters is clipped as one contribution; and
    the server adds the noisy mean of the changes (DP-FedAvg: McMahan et al. 2018,
    arXiv:1710.06963). All happens in this process, which sees the records of all clients and must
    be trusted. It writes what `dpjax.finetune` writes, and clients.json, which is private.

    Args:
        **options: the fields of `FederatedConfig`, and those of `dpjax federated` on the command
            line. Data may be given as a `DataSource`, a path, or a mapping; groups of options as
            their dataclasses or as mappings.

    Returns:
        As `dpjax.finetune`; a step is a round, and the unit of the guarantee a client.

    Raises:
        TypeError: an option is unknown or missing, or its value has the wrong type.
        FileNotFoundError, FileExistsError, ValueError: what is given does not exist or does not
            fit; found before any compilation.
        RunInterrupted: Ctrl-C or SIGTERM; the run can be resumed.
        RunStopped: the disk is full, or training has diverged.

    Example:
        >>> from pathlib import Path
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.demo.run import write_data
        >>> train, held_out = write_data(Path("clinic"))
        >>> result = federate(  # doctest: +ELLIPSIS
        ...     model=find_minilm(),
        ...     train_data=train,
        ...     eval_data=held_out,
        ...     output_dir="runs/federated",
        ...     tuning="head",
        ...     num_layers=1,
        ...     privacy={"noise_multiplier": 2.0},
        ...     clients={"num_clients": 400, "num_rounds": 2},
        ...     training={"max_length": 16},
        ... )
        4000 training records, 1000 held out, ...
        >>> result.privacy["guarantee"]["unit"], result.privacy["guarantee"]["num_units"]
        ('user', 400)
    """
    from dpjax.federated.set_up import execute_federated, set_up_federated

    paths = {name: os.fspath(options[name]) for name in ("model", "output_dir") if name in options}
    return execute_federated(set_up_federated(FederatedConfig.from_options(options | paths)))
