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
    `{"path": ..., "text_column": ...}`; the groups privacy, lora, preference, training, compute,
    generation, audit and tracking as their dataclasses or as mappings.

    Returns:
        Accuracy, perplexity or reward margin on the held-out records, (ε, δ), the attack's result;
        the model itself is in `output_dir/model`. What failed once the model was written is None,
        and a sentence in `warnings` says why. Where several processes train, the same in all of
        them (docs/guide/devices.md).

    Raises:
        TypeError: an option is unknown or missing, or its value has the wrong type.
        FileNotFoundError, FileExistsError, ValueError: what is given does not exist or does not
            fit; found before any compilation.
        RunInterrupted: Ctrl-C or SIGTERM; the run can be resumed.
        RunStopped: the disk is full, training has diverged, or another process has ended.

    Example:
        >>> from pathlib import Path
        >>> import dpjax
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.demo.run import write_data
        >>> train, held_out = write_data(Path("clinic"))
        >>> result = dpjax.finetune(  # doctest: +ELLIPSIS
        ...     model=find_minilm(),
        ...     train_data=train,
        ...     eval_data=held_out,
        ...     output_dir="runs/first",
        ...     tuning="head",
        ...     num_layers=1,
        ...     privacy={"target_epsilon": 3.0},
        ...     training={"num_steps": 2, "max_length": 16},
        ... )
        4000 training records, 1000 held out, ...
        >>> result.epsilon <= 3.0
        True
    """
    from dpjax.finetuning.run import execute
    from dpjax.finetuning.setup.start import set_up

    paths = {name: os.fspath(options[name]) for name in ("model", "output_dir") if name in options}
    return execute(set_up(FinetuneConfig.from_options(options | paths)))
