"""`dpjax.finetune`: the whole run as one function call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from dpjax.data import DataSource
from dpjax.finetuning.config.options import (
    Compute,
    FinetuneConfig,
    Generation,
    Lora,
    Privacy,
    Training,
    Tuning,
)

if TYPE_CHECKING:
    from dpjax.finetuning.run import FinetuneResult


def finetune(
    *,
    model: str | os.PathLike[str],
    train_data: DataSource | Mapping[str, Any] | str | os.PathLike[str],
    eval_data: DataSource | Mapping[str, Any] | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    revision: str | None = None,
    task: Literal["sequence_classification", "causal_lm"] = "sequence_classification",
    separator: str = "",
    pooling: Literal["auto", "first", "mean"] = "auto",
    num_layers: int | None = None,
    tuning: Tuning = "lora",
    num_trained_layers: int | None = None,
    privacy: Privacy | Mapping[str, Any] = Privacy(),  # noqa: B008 (frozen)
    lora: Lora | Mapping[str, Any] = Lora(),  # noqa: B008 (frozen)
    training: Training | Mapping[str, Any] = Training(),  # noqa: B008 (frozen)
    compute: Compute | Mapping[str, Any] = Compute(),  # noqa: B008 (frozen)
    generation: Generation | Mapping[str, Any] = Generation(),  # noqa: B008 (frozen)
    non_private: bool = False,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **unknown: Any,
) -> FinetuneResult:
    """Fine-tunes a pretrained model of texts under (ε, δ)-differential privacy.

    The options are those of `dpjax finetune` on the command line; `FinetuneConfig` describes
    them. Data may be given as a path, a mapping such as `{"path": ..., "text_column": ...}`, or a
    `DataSource`; the groups privacy, lora, training, compute and generation as mappings or as their
    dataclasses.

    Example:
        dpjax.finetune(
            model="path/to/checkpoint",
            train_data="train.csv",
            eval_data="dev.csv",
            output_dir="runs/first",
            privacy={"target_epsilon": 3.0},
        )

    Returns:
        Accuracy or perplexity on the held-out records, (ε, δ), the attack's result; the model
        itself is in `output_dir/model`. What failed once the model was written is None, and a
        sentence in `warnings` says why.

    Raises:
        TypeError: an unknown or missing option, or a value of the wrong type.
        FileNotFoundError, FileExistsError, ValueError: what is given does not exist or does not
            fit; found before any compilation.
        RunInterrupted: Ctrl-C or SIGTERM; the run can be resumed.
        RunStopped: the disk is full, or training has diverged.
    """
    options = {
        "model": os.fspath(model),
        "train_data": train_data,
        "eval_data": eval_data,
        "output_dir": os.fspath(output_dir),
        "revision": revision,
        "task": task,
        "separator": separator,
        "pooling": pooling,
        "num_layers": num_layers,
        "tuning": tuning,
        "num_trained_layers": num_trained_layers,
        "privacy": privacy,
        "lora": lora,
        "training": training,
        "compute": compute,
        "generation": generation,
        "non_private": non_private,
        "seed": seed,
        "resume": resume,
        "overwrite": overwrite,
    }
    config = FinetuneConfig.from_options({**options, **unknown})
    from dpjax.finetuning.run import check, execute

    return execute(check(config))
