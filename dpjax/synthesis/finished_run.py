"""The run whose model writes: its promise and its format. No data file of it is opened."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dpjax_accounting import NON_PRIVATE_WARNING, read_report

from dpjax.data import DataSource
from dpjax.finetuning import FinetuneConfig, RunDirectory, RunState
from dpjax.models import Loading

_FORMATS = ("text", "prompt_completion")


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run of a decoder.

    Attributes:
        folder: of the run.
        config: the options that it was started with.
        privacy: contents of its privacy.json.
    """

    folder: Path
    config: FinetuneConfig
    privacy: dict[str, Any]

    @property
    def model(self) -> Path:
        """The folder of the tuned model, with its tokenizer."""
        return RunDirectory(self.folder).model

    @property
    def is_private(self) -> bool:
        """Whether the run has a guarantee."""
        return bool(self.privacy["private"])

    @property
    def columns(self) -> DataSource:
        """The names of the columns that the run has learnt from, under a path that is not read."""
        return self.config.train_data

    @property
    def learnt_texts(self) -> bool:
        """Whether it has learnt whole texts; otherwise completions of prompts."""
        return self.columns.record_format == "text"

    @property
    def loading(self) -> Loading:
        """How its model is loaded: in the formats in which it was tuned."""
        compute = self.config.compute
        return Loading(
            param_dtype=compute.frozen_dtype,
            dtype=compute.dtype,
            scan_layers=compute.scan_layers is True,
        )


def read_run(folder: str | Path, *, allow_non_private: bool) -> FinishedRun:
    """Reads config.json and privacy.json of a run.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: it is not finished, it is not one of a decoder, it has no privacy and none was
            not allowed, or a file of it is damaged.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"no run {path}: it must be the folder that dpjax finetune wrote")
    directory = RunDirectory(path)
    state = directory.state()
    if state in (RunState.UNFINISHED, RunState.MEASURED, RunState.NOT_STARTED):
        raise ValueError(
            f"{path} must be a finished run, but holds {state.value}. Finish it first, by dpjax "
            "finetune with --resume"
        )
    if state is not RunState.FINISHED:
        raise ValueError(
            f"{path} must be a finished run of dpjax finetune, but holds {state.value}"
        )
    config = _read_config(directory.config)
    if config.task != "causal_lm":
        raise ValueError(
            f"{path} must be a run with task=causal_lm, whose model writes texts, got task="
            f"{config.task}"
        )
    learnt = config.train_data.record_format
    if learnt not in _FORMATS:
        raise ValueError(
            f"{path} must have learnt one of {', '.join(_FORMATS)}, as train_data.record_format in "
            f"its config.json says, got {learnt}. Conversations are not written yet"
        )
    privacy = read_report(directory.privacy)
    _check_privacy(directory, privacy, allow_non_private)
    return FinishedRun(path, config, privacy)


def _read_config(path: Path) -> FinetuneConfig:
    try:
        return FinetuneConfig.from_run(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: put a copy of it back") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): put a copy of it back") from error


def _check_privacy(directory: RunDirectory, privacy: Any, allow_non_private: bool) -> None:
    try:
        is_private, status = privacy["private"], privacy["status"]
        is_whole = is_private is False or isinstance(privacy["guarantee"]["epsilon"], float)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{directory.privacy} is no privacy report: {error} is missing") from None
    if not isinstance(is_private, bool) or not is_whole or status != "complete":
        raise ValueError(
            f"{directory.privacy} must be the report of a finished run, with its ε; ask "
            f"`dpjax report verify {directory.privacy}` what is wrong with it"
        )
    if not is_private and not allow_non_private:
        raise ValueError(
            f"{directory.path} was {NON_PRIVATE_WARNING[0].lower()}{NON_PRIVATE_WARNING[1:-1]}, so "
            "its texts may hold training records word by word. Take a private run; or say "
            "allow_non_private, and keep what is written as secret as the training records"
        )
