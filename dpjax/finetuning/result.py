"""What a finished run came to, and how it is kept until its secrets are deleted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.training import from_lead, read_rows, write_json

if TYPE_CHECKING:
    from dpjax.audit import AttackResult

_STORED = (
    "eval_accuracy",
    "eval_accuracy_before",
    "eval_loss",
    "eval_perplexity",
    "eval_reward_margin",
    "eval_span_f1",
    "num_left_out",
    "quality",
    "quality_details",
    "warnings",
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A held-out prompt, what the record answers, and what the model does."""

    prompt: str
    expected: str
    written: str


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a finished run came to. What could not be measured is None.

    Attributes:
        output_dir: the run directory.
        epsilon: ε that the run spent; None without privacy.
        delta: δ of the guarantee; None without privacy.
        eval_accuracy: share of held-out records whose label is predicted, or of pairs whose chosen
            answer has the higher reward; None of texts.
        eval_accuracy_before: that before tuning, at no ε, where `head.label_words` say what labels
            are called; else None.
        eval_loss: mean loss on held-out records, in nats: the cross-entropy, or that of pairs.
        eval_perplexity: per held-out token; None of labelled records and pairs.
        eval_span_f1: F1 of the spans that tags of held-out words mark; None where they mark none.
        attack: result of the membership inference attack.
        audit: contents of audit.json; None without an audit.
        privacy: contents of privacy.json.
        metrics: rows of metrics.jsonl.
        samples: answers to held-out prompts, where there are prompts.
        quality: name and value, in words, of what the task is measured by.
        quality_details: the same of what else it is measured by.
        warnings: why something could not be measured, a sentence each.
        num_left_out: training records that coins left out; 0 without `audit.hold_out`.
        eval_reward_margin: mean over held-out pairs of how much higher the reward of the chosen
            answer is; None without pairs.

    Example:
        >>> result = FinetuneResult(
        ...     output_dir=Path("runs/first"),
        ...     epsilon=2.99,
        ...     delta=1e-5,
        ...     eval_accuracy=0.9,
        ...     eval_loss=0.31,
        ...     eval_perplexity=None,
        ...     attack=None,
        ...     audit=None,
        ...     privacy={},
        ...     metrics=[],
        ...     samples=[],
        ... )
        >>> result.epsilon <= 3.0 and not result.warnings
        True
    """

    output_dir: Path
    epsilon: float | None
    delta: float | None
    eval_accuracy: float | None
    eval_loss: float | None
    eval_perplexity: float | None
    attack: AttackResult | None
    audit: dict[str, Any] | None
    privacy: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[Sample]
    quality: tuple[str, str] | None = None
    warnings: tuple[str, ...] = ()
    num_left_out: int = 0
    eval_accuracy_before: float | None = None
    eval_reward_margin: float | None = None
    eval_span_f1: float | None = None
    quality_details: tuple[tuple[str, str], ...] = ()


def store_result(directory: RunDirectory, result: FinetuneResult) -> None:
    """Writes what other files of the folder do not have into private/.

    A run that is stopped while its secrets are deleted has the same result when it is resumed.
    """
    write_json(directory.results, _own_part(result), mode=0o600)


def load_result(directory: RunDirectory) -> FinetuneResult:
    """The result of a run whose `store_result` was called.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged.
    """
    files = {"attack": directory.attack, "audit": directory.audit}
    told = _read(directory.results) | {
        "privacy": _read(directory.privacy),
        "metrics": read_rows(directory.metrics),
        **{name: _read(path) if path.exists() else None for name, path in files.items()},
    }
    return _from_dict(directory.path, told)


def _to_dict(result: FinetuneResult) -> dict[str, Any]:
    """Returns all but the folder, ready for JSON."""
    return _own_part(result) | {
        "attack": None if result.attack is None else result.attack.to_dict(),
        **{name: getattr(result, name) for name in ("privacy", "metrics", "audit")},
    }


def _from_dict(output_dir: Path, told: dict[str, Any]) -> FinetuneResult:
    """Returns the result that `_to_dict` was given."""
    from dpjax.audit import AttackResult

    guarantee = told["privacy"]["guarantee"] or {"epsilon": None, "delta": None}
    quality, attack = told["quality"], told["attack"]
    kinds = {
        "attack": None if attack is None else AttackResult.from_dict(attack),
        "quality": None if quality is None else (quality[0], quality[1]),
        "quality_details": tuple((name, value) for name, value in told["quality_details"]),
        "warnings": tuple(told["warnings"]),
        "samples": [Sample(**sample) for sample in told["samples"]],
    }
    return FinetuneResult(
        output_dir=output_dir,
        epsilon=guarantee["epsilon"],
        delta=guarantee["delta"],
        **told | kinds,
    )


def result_of_lead(output_dir: Path, own: FinetuneResult | None) -> FinetuneResult:
    """Returns the result of the process that keeps the files, in every process.

    Args:
        output_dir: the run directory.
        own: the result; None in the other processes.
    """
    if own is not None and jax.process_count() == 1:
        return own
    told = from_lead(lambda: {} if own is None else _to_dict(own))
    return _from_dict(output_dir, told) if own is None else own


def _own_part(result: FinetuneResult) -> dict[str, Any]:
    own = {name: getattr(result, name) for name in _STORED}
    return own | {"samples": [dataclasses.asdict(sample) for sample in result.samples]}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: put a copy of it back") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): put a copy of it back") from error
