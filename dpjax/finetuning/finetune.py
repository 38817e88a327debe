"""`dpjax.finetune`: the whole run as one function call."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

from dpjax.finetuning.config import FinetuneConfig

if TYPE_CHECKING:
    from dpjax.finetuning.result import FinetuneResult

Options = ParamSpec("Options")


def _with_options_of(
    config: Callable[Options, FinetuneConfig],
) -> Callable[[Callable[..., FinetuneResult]], Callable[Options, FinetuneResult]]:
    """Gives a function the signature of `config`, for type checkers and for `help`."""

    def decorate(function: Callable[..., FinetuneResult]) -> Callable[Options, FinetuneResult]:
        @functools.wraps(function)
        def called(*args: Options.args, **options: Options.kwargs) -> FinetuneResult:
            return function(*args, **options)

        signature = inspect.signature(config)
        called.__signature__ = signature.replace(return_annotation="FinetuneResult")  # type: ignore[attr-defined]
        return called

    return decorate


@_with_options_of(FinetuneConfig)
def finetune(**options: Any) -> FinetuneResult:
    """Fine-tunes a pretrained model of texts under (ε, δ)-differential privacy.

    The options are the fields of `FinetuneConfig`, and those of `dpjax finetune` on the command
    line. Data may be given as a `DataSource`, a path, or a mapping such as
    `{"path": ..., "text_column": ...}`; the groups privacy, lora, training, compute and generation
    as their dataclasses or as mappings.

    Returns:
        Accuracy or perplexity on the held-out records, (ε, δ), the attack's result; the model
        itself is in `output_dir/model`. What failed once the model was written is None, and a
        sentence in `warnings` says why.

    Raises:
        TypeError: an option is unknown or missing, or its value has the wrong type.
        FileNotFoundError, FileExistsError, ValueError: what is given does not exist or does not
            fit; found before any compilation.
        RunInterrupted: Ctrl-C or SIGTERM; the run can be resumed.
        RunStopped: the disk is full, or training has diverged.

    Example:
        dpjax.finetune(
            model="path/to/checkpoint",
            train_data="train.csv",
            eval_data="dev.csv",
            output_dir="runs/first",
            privacy={"target_epsilon": 3.0},
        )
    """
    from dpjax.finetuning.run import execute
    from dpjax.finetuning.setup.start import set_up

    paths = {name: os.fspath(options[name]) for name in ("model", "output_dir") if name in options}
    return execute(set_up(FinetuneConfig.from_options(options | paths)))
