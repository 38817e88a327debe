"""What a finished run came to, and how it is kept until its secrets are deleted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dpjax.audit import AttackResult
from dpjax.finetuning.files.metrics_log import read_rows
from dpjax.finetuning.files.run_directory import RunDirectory, write_json
from dpjax.finetuning.reports.samples import Sample

_STORED = ("eval_accuracy", "eval_loss", "eval_perplexity", "warnings")


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a finished run came to.

    `epsilon` and `delta` are None without privacy, `eval_accuracy` of texts, `eval_perplexity` of
    labelled records. `samples` are answers to held-out prompts, where there are prompts. What
    could not be measured is None, and `warnings` says why, a sentence each.
    """

    output_dir: Path
    epsilon: float | None
    delta: float | None
    eval_accuracy: float | None
    eval_loss: float | None
    eval_perplexity: float | None
    attack: AttackResult | None
    privacy: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[Sample]
    warnings: tuple[str, ...] = ()


def store(directory: RunDirectory, result: FinetuneResult) -> None:
    """Writes what other files of the folder do not have into private/.

    A run that is stopped while its secrets are deleted has the same result when it is resumed.
    """
    stored = {name: getattr(result, name) for name in _STORED}
    stored["samples"] = [dataclasses.asdict(sample) for sample in result.samples]
    write_json(directory.results, stored, mode=0o600)


def load(directory: RunDirectory) -> FinetuneResult:
    """The result of a run whose `store` was called.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged.
    """
    stored = _read(directory.results)
    privacy = _read(directory.privacy)
    attack = None
    if directory.attack.exists():
        attack = AttackResult.from_dict(_read(directory.attack))
    guarantee = privacy["guarantee"] or {"epsilon": None, "delta": None}
    return FinetuneResult(
        output_dir=directory.path,
        epsilon=guarantee["epsilon"],
        delta=guarantee["delta"],
        attack=attack,
        privacy=privacy,
        metrics=read_rows(directory.metrics),
        samples=[Sample(**sample) for sample in stored.pop("samples")],
        **stored | {"warnings": tuple(stored["warnings"])},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: put a copy of it back") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): put a copy of it back") from error
