"""One unlearning: check everything, retrain, unlearn, measure, report."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dpjax_accounting import SCHEMA_VERSION, finish_folder, write_text
from rich.console import Console

from dpjax.audit import mean_log_probs
from dpjax.data import LanguageDataset, Texts
from dpjax.models import (
    CausalLM,
    SplitModel,
    Trainable,
    end_token_ids,
    load_tokenizer,
    read_config,
    revision_of,
    save_adapter,
    split_trainable,
)
from dpjax.training import Interrupts, describe_versions, partial_of, write_json
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.forget_set import ForgetSet, find_forget_set
from dpjax.unlearning.losses.objective import make_loss, make_tuning_loss
from dpjax.unlearning.measures.model import Measured, MeasuredRecords, measure_model
from dpjax.unlearning.measures.verdict import judge
from dpjax.unlearning.reports.promise import NOT_COVERED, PRIVATE, describe_promise
from dpjax.unlearning.reports.report import render_report
from dpjax.unlearning.result import UnlearningResult
from dpjax.unlearning.retraining import check_can_retrain, retrain
from dpjax.unlearning.training import Steps, descend
from dpjax.unlearning.tuned_run import TunedRun, read_run

_OWNER_ONLY = 0o600
_STOPPED = "stopped; start again in a new folder, an unlearning is not resumed"
# Apart from the purposes of the orders of records.
_MEASURED = 2


@dataclasses.dataclass(frozen=True)
class Unlearning:
    """An unlearning that has passed its checks; no model is loaded yet.

    Attributes:
        config: what was asked for.
        run: whose model is to forget.
        forget_set: the rows to forget, and the others.
    """

    config: UnlearnConfig
    run: TunedRun
    forget_set: ForgetSet

    @functools.cached_property
    def forget(self) -> LanguageDataset:
        """The records to forget that have a target: the run has learnt nothing of the others."""
        return _with_targets(self.run.train.take(self.forget_set.forget))

    @functools.cached_property
    def retain(self) -> LanguageDataset:
        """The retained records that have a target."""
        return _with_targets(self.run.train.take(self.forget_set.retain))

    @property
    def num_steps(self) -> int:
        """How many steps the passes over the forget set take."""
        size = min(self.config.batch_size, len(self.forget), len(self.retain))
        return max(1, math.ceil(self.config.num_epochs * len(self.forget) / size))


def set_up(config: UnlearnConfig) -> Unlearning:
    """Does all that can fail because of what was asked: no model is loaded, nothing is written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what was wrong, the value seen, what to do.
    """
    folder = Path(config.output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"output_dir {folder} is there already; name a new folder")
    run = read_run(config.run)
    forget_set = find_forget_set(config, run)
    if config.baseline:
        check_can_retrain(run, forget_set.retain)
    num_layers = read_config(run.plan.checkpoint).num_layers
    if config.layer is not None and config.layer > num_layers:
        raise ValueError(
            f"layer must be at most {num_layers}, the layers of {run.config.model}, got "
            f"{config.layer}"
        )
    return Unlearning(config, run, forget_set)


def execute(unlearning: Unlearning, console: Console | None = None) -> UnlearningResult:
    """Retrains if that was asked, unlearns, writes the adapter, measures all models and reports.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM.
        RunDiverged: a loss is not finite.
        ValueError: the options of the run do not fit fewer records, or a model is damaged.
    """
    console = console or Console()
    folder = Path(unlearning.config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with Interrupts() as interrupts, interrupts.saying(_STOPPED, 0):
        return _execute(unlearning, folder, console)


def _execute(unlearning: Unlearning, folder: Path, console: Console) -> UnlearningResult:
    config, run = unlearning.config, unlearning.run
    rows = unlearning.forget_set

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"{len(rows.forget)} records to forget, {len(rows.retain)} retained; {PRIVATE}")
    records = _measured_records(unlearning)
    retrained = None
    if config.baseline:
        say("training once more without the forget set")
        adapter = retrain(run, rows.retain, folder / "retrained")
        retrained = _measure(unlearning, _load(run, adapter), records)
    original = _load(run, run.adapter)
    before = _measure(unlearning, original, records)
    say(f"unlearning by {config.method}, {unlearning.num_steps} steps")
    key = jax.random.key(config.seed)
    unlearned, losses = descend(
        original,
        make_loss(original.graphdef, config, key=key),
        unlearning.forget,
        unlearning.retain,
        Steps(unlearning.num_steps, config.batch_size, config.learning_rate, config.seed),
    )
    _write_adapter(run, unlearned, folder)
    after = _measure(unlearning, unlearned, records)
    verdict = judge(before, after, retrained, confidence=config.confidence)
    report = {
        "schema_version": 1,
        "warning": PRIVATE,
        "run": {"id": run.privacy["run"]["id"], "base_model": run.config.model},
        "method": {
            "name": config.method,
            "options": config.method_options(),
            "num_steps": unlearning.num_steps,
            "losses": losses,
        },
        "forget_set": {
            "named": rows.num_named,
            "records": len(rows.forget),
            "retained": len(rows.retain),
            "forget_without_targets": len(rows.forget) - len(unlearning.forget),
        },
        "measured": {part: len(data) for part, data in records.parts.items()},
        "relearn_steps": config.relearn_steps,
        "models": {
            "original": before.to_dict(),
            "unlearned": after.to_dict(),
            "retrained": None if retrained is None else retrained.to_dict(),
        },
        "verdict": verdict.to_dict(),
        "promise": describe_promise(run, len(rows.forget)),
        "not_covered": list(NOT_COVERED),
        "options": config.to_dict(),
        "versions": describe_versions(),
    }
    write_text(folder / "report.md", render_report(report), mode=_OWNER_ONLY)
    # Last: where it is, all is done.
    write_json(folder / "unlearning.json", report, mode=_OWNER_ONLY)
    return UnlearningResult(
        output_dir=folder,
        adapter=folder / "adapter",
        over_unlearned=verdict.over_unlearned,
        under_unlearned=verdict.under_unlearned,
        report=report,
    )


def _load(run: TunedRun, adapter: Path) -> SplitModel:
    return split_trainable(run.load(adapter), Trainable.lora())


def _measure(unlearning: Unlearning, model: SplitModel, records: MeasuredRecords) -> Measured:
    config, forget = unlearning.config, unlearning.forget
    relearnt, _ = descend(
        model,
        make_tuning_loss(model.graphdef),
        forget,
        forget,
        Steps(config.relearn_steps, config.batch_size, config.learning_rate, config.seed),
    )
    loss = -float(mean_log_probs(_merged(relearnt), forget).mean())
    return measure_model(_merged(model), records, relearnt_loss=loss)


def _merged(model: SplitModel) -> CausalLM:
    merged = model.merge()
    assert isinstance(merged, CausalLM)
    return merged


def _measured_records(unlearning: Unlearning) -> MeasuredRecords:
    config, run = unlearning.config, unlearning.run
    draws = np.random.default_rng([config.seed, _MEASURED])
    parts: dict[str, LanguageDataset] = {"forget": unlearning.forget}
    for part, data in (
        ("retain", unlearning.retain),
        ("held_out", _with_targets(run.held_out)),
    ):
        rows = draws.permutation(len(data))[: config.measured_records]
        parts[part] = data.take(np.sort(rows))
    tokenizer = load_tokenizer(run.plan.checkpoint, needs_padding=False)
    ends = end_token_ids(run.plan.checkpoint, tokenizer)
    return MeasuredRecords(parts, tokenizer, ends, not isinstance(run.records, Texts))


def _with_targets(records: LanguageDataset) -> LanguageDataset:
    return records.take(np.flatnonzero(~records.without_targets))


def _write_adapter(run: TunedRun, model: SplitModel, folder: Path) -> None:
    """Writes adapter/, after the note that it has no privacy: merging looks for it there."""
    note: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "private": False,
        "status": "complete",
        "warnings": [PRIVATE, *NOT_COVERED],
    }
    write_json(folder / "privacy.json", note)
    partial = partial_of(folder / "adapter")
    revision = revision_of(run.plan.checkpoint)
    save_adapter(model.merge(), partial, base=run.config.model, revision=revision)
    finish_folder(partial, folder / "adapter")
