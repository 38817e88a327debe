"""The run whose model is to forget: its records, its adapter, its promise."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from pathlib import Path
from typing import Any

from dpjax_accounting import read_report

from dpjax.data import Completions, Conversations, LanguageDataset, Texts
from dpjax.finetuning import FinetuneConfig, Plan, RunDirectory, RunState, prepare
from dpjax.models import CausalLM, load_adapter, load_causal_lm


@dataclasses.dataclass(frozen=True)
class TunedRun:
    """A finished run of a decoder with adapters, and the records that it has learnt.

    Attributes:
        folder: of the run.
        config: the options that it was started with.
        privacy: contents of its privacy.json.
        plan: the run as it would be started now: its records, read and encoded once more.
    """

    folder: Path
    config: FinetuneConfig
    privacy: dict[str, Any]
    plan: Plan

    @property
    def adapter(self) -> Path:
        """The folder of the tuned adapter."""
        return RunDirectory(self.folder).adapter

    @property
    def records(self) -> Texts | Completions | Conversations:
        """The training records that a step could draw, as they were read."""
        records = self.plan.train_records
        assert isinstance(records, Texts | Completions | Conversations)
        return records

    @property
    def train(self) -> LanguageDataset:
        """The same as arrays."""
        assert isinstance(self.plan.train, LanguageDataset)
        return self.plan.train

    @property
    def held_out(self) -> LanguageDataset:
        """The held-out records as arrays."""
        assert isinstance(self.plan.evaluation, LanguageDataset)
        return self.plan.evaluation

    def load(self, adapter: Path) -> CausalLM:
        """Loads the base with an adapter; layers are unrolled.

        Raises:
            FileNotFoundError, ValueError: the checkpoint or the adapter is missing or damaged.
        """
        loading = dataclasses.replace(self.config.compute.loading(), scan_layers=False)
        model = load_causal_lm(self.plan.checkpoint, loading=loading)
        load_adapter(model, adapter, freeze_a=self.config.lora.freeze_a)
        return model


def read_run(folder: str | Path, *, started_at: datetime.datetime | None = None) -> TunedRun:
    """Reads the options, the promise and the records of a run; no model is loaded.

    Args:
        folder: of the run.
        started_at: when an unlearning that goes on was started: chat templates get this date.

    Raises:
        FileNotFoundError: there is no run, or a file of it, or its data, is missing.
        ValueError: it is not finished, not one of a decoder with adapters alone, had canaries or
            records held out by coins, or its training data is not what it had.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"no run {path}: it must be the folder that dpjax finetune wrote")
    directory = RunDirectory(path)
    state = directory.state()
    if state is not RunState.FINISHED:
        raise ValueError(
            f"{path} must be a finished run of dpjax finetune, but holds {state.value}"
        )
    config = _read_config(directory.config)
    _check_fits(path, config)
    if not directory.adapter.is_dir():
        raise FileNotFoundError(
            f"{directory.adapter} is missing: unlearning changes the adapter of a run; put a copy "
            "of it back"
        )
    privacy = read_report(directory.privacy)
    run = TunedRun(path, config, privacy, prepare(config, started_at=started_at))
    _check_same_data(run)
    return run


def _read_config(path: Path) -> FinetuneConfig:
    try:
        stored = json.loads(path.read_bytes())
        config = FinetuneConfig.from_run(stored)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: put a copy of it back") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): put a copy of it back") from error
    if "clients" in stored:
        raise ValueError(
            f"{path.parent} is a federated run, and a baseline would be trained without clients: "
            "take a run of dpjax finetune"
        )
    return config


def _check_fits(path: Path, config: FinetuneConfig) -> None:
    if (config.task, config.tuning) != ("causal_lm", "lora"):
        raise ValueError(
            f"{path} must be a run with task=causal_lm and tuning=lora, got task={config.task} "
            f"and tuning={config.tuning}: unlearning changes adapters over a frozen decoder"
        )
    if config.lora.trains_weights:
        raise ValueError(
            f"{path} has tuned more than adapters (lora.modules_to_save or lora.bias): the base "
            "without them is not what it was tuned from. Take a run with adapters alone"
        )
    if config.audit.is_wanted:
        raise ValueError(
            f"{path} was audited: coins, which are deleted, decided what it has learnt, so nobody "
            "can say what it would be without some of it. Take a run without audit options"
        )


def _check_same_data(run: TunedRun) -> None:
    """Refuses training data of another size than the accountant of the run has counted."""
    stored, mechanism = run.privacy["mechanism"], run.plan.mechanism
    if stored is None or mechanism is None:
        return
    now = mechanism.to_dict()
    for name, was in stored.items():
        # Noise may be calibrated to other digits by another version.
        if "noise" in name or isinstance(was, bool) or not isinstance(was, int | float):
            continue
        if name not in now or not math.isclose(now[name], was, rel_tol=1e-9):
            raise ValueError(
                f"{run.config.train_data.path} is not the training data of {run.folder}: "
                f"{name} of the mechanism was {was}, now it is {now.get(name)}. Put the file back "
                "as it was"
            )
