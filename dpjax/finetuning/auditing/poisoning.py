"""`dpjax.audit_poisoning`: what poisoned records achieve, with privacy and without."""

from __future__ import annotations

import os
from typing import Any

from dpjax.finetuning.auditing.poison_config import PoisonConfig
from dpjax.finetuning.auditing.poison_result import PoisonResult


def audit_poisoning(**options: Any) -> PoisonResult:
    """Adds poisoned records to the training data, trains many models, and measures them.

    The options are the fields of `PoisonConfig`: those of `dpjax.finetune`, and `poison`. For each
    privacy, trigger, number of poisoned records and random set a model is trained, and clean ones
    beside them. The report says how often held-out records with the trigger get the target, and how
    often privacy allows it. The models are deleted. The report is private: nothing is accounted for
    this audit, and it must not be published.

    Raises:
        TypeError: an option is unknown or missing, or its value has the wrong type.
        FileNotFoundError, FileExistsError, ValueError: what is given does not exist or does not
            fit; found before any compilation.
        RunInterrupted: Ctrl-C or SIGTERM; with `resume` the audit goes on.
        RunStopped: the disk is full, or training has diverged.

    Example:
        >>> from pathlib import Path
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.demo.run import write_data
        >>> train, held_out = write_data(Path("clinic"))
        >>> result = audit_poisoning(  # doctest: +ELLIPSIS
        ...     model=find_minilm(),
        ...     train_data=train,
        ...     eval_data=held_out,
        ...     output_dir="audits/poison",
        ...     tuning="head",
        ...     num_layers=1,
        ...     non_private=True,
        ...     training={"num_steps": 2, "max_length": 16},
        ...     poison={
        ...         "target": "billing",
        ...         "triggers": ["rare_token"],
        ...         "counts": [4],
        ...         "num_sets": 1,
        ...         "num_clean_models": 1,
        ...     },
        ... )
        2 models ...
        >>> [row["num_poisoned"] for row in result.report["rows"]]
        [4]
    """
    from dpjax.finetuning.auditing.poison_audit import execute_poisoning

    paths = {name: os.fspath(options[name]) for name in ("model", "output_dir") if name in options}
    return execute_poisoning(PoisonConfig.from_options(options | paths))
