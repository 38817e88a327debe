"""`dpjax.unlearning.unlearn`: a whole unlearning as one function call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dpjax.finetuning import build_options
from dpjax.unlearning.config import UnlearnConfig

if TYPE_CHECKING:
    from dpjax.unlearning.result import UnlearningResult


def unlearn(run: str | os.PathLike[str], **options: Any) -> UnlearningResult:
    """Makes the adapter of a finished run forget some training records, and measures what is left.

    The folder that it writes is private. Nothing is certified but with method="noisy_descent":
    docs/unlearning.md says what that promises, and what the measures can show.

    Args:
        run: folder of a finished run with task=causal_lm and tuning=lora.
        **options: the fields of `UnlearnConfig`, and those of `dpjax unlearn` on the command line;
            `output_dir` and one of `forget`, `forget_rows` and `forget_owners` are required.

    Raises:
        TypeError: an option is unknown or missing, or its value has the wrong type.
        FileNotFoundError, FileExistsError, ValueError: what is given does not exist or does not
            fit; found before the model is loaded.
        RunInterrupted: Ctrl-C or SIGTERM; with resume=True it goes on.
        RunStopped: a loss is not finite, or the disk is full.

    Example:
        >>> try:
        ...     unlearn("runs/none", forget_rows=(0,), output_dir="unlearned")
        ... except FileNotFoundError as error:
        ...     print(error)
        no run runs/none: it must be the folder that dpjax finetune wrote
    """
    from dpjax.unlearning.run import execute, set_up

    names = ("output_dir", "forget", "truth_ratio")
    paths = {name: os.fspath(options[name]) for name in names if options.get(name) is not None}
    given = {"run": os.fspath(run)} | options | paths
    return execute(set_up(build_options(UnlearnConfig, given)))
