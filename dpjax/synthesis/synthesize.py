"""`dpjax.synthesize`: synthetic records as one function call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dpjax.finetuning import build_options
from dpjax.synthesis.config import SynthesisConfig

if TYPE_CHECKING:
    from dpjax.synthesis.result import SynthesisResult

_PATHS = ("output_dir", "prompts", "compare_with", "test_data", "classifier")


def synthesize(run: str | os.PathLike[str], **options: Any) -> SynthesisResult:
    """Writes synthetic records with a decoder that `finetune` has tuned.

    No private record is read: the records have the guarantee of the run, and synthesis.json says
    so. With `compare_with` or `test_data` they are afterwards compared with private ones, in files
    of their own, which must not be published.

    Args:
        run: folder of a finished run with task=causal_lm.
        **options: the fields of `SynthesisConfig`, and those of `dpjax synthesize` on the command
            line; `num` and `output_dir` are required.

    Raises:
        TypeError: an option is unknown or missing, or its value has the wrong type.
        FileNotFoundError, FileExistsError, ValueError: what is given does not exist or does not
            fit; found before the model is loaded.
        RunInterrupted: Ctrl-C or SIGTERM; `resume=True` goes on.
        RunStopped: the disk is full.

    Example:
        >>> try:
        ...     synthesize("runs/none", num=5, output_dir="synthetic")
        ... except FileNotFoundError as error:
        ...     print(error)
        no run runs/none: it must be the folder that dpjax finetune wrote
    """
    from dpjax.synthesis.run import execute, set_up

    paths = {name: os.fspath(options[name]) for name in _PATHS if options.get(name) is not None}
    given = {"run": os.fspath(run)} | options | paths
    return execute(set_up(build_options(SynthesisConfig, given)))
