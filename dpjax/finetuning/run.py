"""One fine-tuning run from start to end: plan, train, evaluate, attack, report."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from dpjax_accounting import Ledger
from dpjax_accounting.durable import write_text
from dpjax_accounting.remarks import SEED_WARNING
from dpjax_accounting.report_page import report_page
from flax import nnx
from rich.console import Console

from dpjax.audit import AttackResult, loss_attack
from dpjax.finetuning import privacy_report
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.evaluate import Evaluation, evaluate
from dpjax.finetuning.interrupt import RunInterrupted
from dpjax.finetuning.loop import train
from dpjax.finetuning.prepare import Plan, prepare
from dpjax.finetuning.report import write_report
from dpjax.finetuning.run_directory import RunDirectory, write_json
from dpjax.finetuning.run_ledger import RunLedger
from dpjax.finetuning.samples import Sample, write_samples
from dpjax.finetuning.start_a import store_a, with_a_started
from dpjax.models import (
    CausalLM,
    LoraConfig,
    Trainable,
    add_lora,
    has_lora,
    is_own_base,
    revision_of,
    save_adapter,
    save_model,
    split_trainable,
    trained_share,
)
from dpjax.privatize import RunKey

_ATTACK_RECORDS = 2000


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a finished run came to.

    `epsilon` and `delta` are None without privacy, `eval_accuracy` of texts, `eval_perplexity` of
    labelled records. `samples` are answers to held-out prompts, where there are prompts.
    """

    output_dir: Path
    epsilon: float | None
    delta: float | None
    eval_accuracy: float | None
    eval_loss: float
    eval_perplexity: float | None
    attack: AttackResult
    privacy: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[Sample]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has passed every check and has yet to be executed.

    `run_id` names it in its privacy report and in the ledger, if it keeps one.
    """

    plan: Plan
    directory: RunDirectory
    run_key: RunKey
    run_id: str
    ledger: RunLedger | None
    graphdef: Any
    trainable: Any
    frozen: Any


def check(config: FinetuneConfig) -> Run:
    """Does all that can fail because of what was asked: nothing is compiled or written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: what was wrong, the value seen, what to do.
    """
    directory = RunDirectory(config.output_dir)
    if config.resume:
        directory.check_resumable()
    else:
        directory.check_free()
    plan = prepare(config)
    run_key, run_id = _secrets(directory, plan)
    ledger = RunLedger.of(plan, run_key, run_id)
    if ledger is not None:
        ledger.check()
    model = plan.task.load(plan.checkpoint, config, run_key.model_key("head"))
    if config.tuning == "lora":
        settings = config.lora
        add_lora(
            model,
            LoraConfig(
                rank=settings.rank,
                alpha=settings.alpha,
                use_rslora=settings.use_rslora,
                target_modules=_target_modules(settings.target_modules),
                modules_to_save=settings.modules_to_save,
                layers_to_transform=settings.layers_to_transform,
                freeze_a=settings.freeze_a,
                dropout=settings.dropout,
            ),
            key=run_key.model_key("lora"),
        )
    trainable = Trainable(config.tuning, num_layers=config.num_trained_layers)
    parts = split_trainable(model, trainable)
    return Run(plan, directory, run_key, run_id, ledger, *parts)


def execute(run: Run, console: Console | None = None) -> FinetuneResult:
    """Trains, evaluates, attacks and writes the run directory.

    Raises:
        RunInterrupted: Ctrl-C; the run can be resumed.
    """
    console = console or Console()
    run = with_a_started(run)
    plan, directory = run.plan, run.directory
    if not plan.config.resume:
        _open(run)
        store_a(run)
    # On record before any of it is released.
    ledger = None if run.ledger is None else run.ledger.charge()
    console.print(_headline(run), highlight=False, soft_wrap=True)

    def note_progress(step: int) -> None:
        write_json(directory.privacy, _privacy(run, ledger, step))

    if not plan.config.resume:
        note_progress(0)
    try:
        trained = train(
            plan,
            run.graphdef,
            run.trainable,
            run.frozen,
            run.run_key,
            directory,
            console,
            note_progress,
        )
    except RunInterrupted as interrupted:
        if ledger is not None:
            ledger.settle(run.run_id, interrupted.step)
            note_progress(interrupted.step)
        raise
    if ledger is not None:
        ledger.settle(run.run_id, plan.num_steps)
    # What was spent is on record before anything that spent it is written.
    privacy = _privacy(run, ledger, plan.num_steps)
    write_json(directory.privacy, privacy)
    parts = (run.graphdef, trained.trainable, run.frozen)
    held_out = evaluate(plan.task, *parts, plan.evaluation)
    attack = _attack(plan, parts, held_out)
    tuned = nnx.merge(*parts)
    save_model(tuned, plan.checkpoint, directory.model, label_names=plan.task.labels)
    if has_lora(tuned) and is_own_base(tuned, plan.checkpoint):
        save_adapter(
            tuned, directory.adapter, plan.config.model, revision=revision_of(plan.checkpoint)
        )
    samples = write_samples(plan, tuned) if isinstance(tuned, CausalLM) else []
    return _finish(plan, directory, privacy, held_out, attack, trained.metrics, samples)


def _target_modules(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return "all-linear" if names == ("all-linear",) else names


def _secrets(directory: RunDirectory, plan: Plan) -> tuple[RunKey, str]:
    """Key and name of the run: those of the interrupted one if it is resumed, else new ones."""
    config = plan.config
    if config.resume:
        stored = json.loads(directory.identity.read_text())
        _check_same(stored, json.loads(json.dumps(_identity(plan))))
        return directory.load_run_key(), stored["run_id"]
    run_key = RunKey.from_os_entropy() if config.seed is None else RunKey.from_seed(config.seed)
    return run_key, secrets.token_hex(16)


def _open(run: Run) -> None:
    directory, plan = run.directory, run.plan
    directory.create(run.run_key)
    write_json(directory.identity, {"run_id": run.run_id, **_identity(plan)}, mode=0o600)
    write_json(directory.config, plan.config.to_dict())


def _privacy(run: Run, ledger: Ledger | None, step: int) -> dict[str, Any]:
    return privacy_report.build(run.plan, run.run_key, run.run_id, step, ledger)


def _identity(plan: Plan) -> dict[str, Any]:
    """What must not change between an interruption and the resumption."""
    return {
        "config": _comparable(plan.config.to_dict()),
        "revision": revision_of(plan.checkpoint),
        "data": plan.fingerprint(),
        "mechanism": plan.mechanism and plan.mechanism.to_dict(),
    }


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("resume", "output_dir")}


def _check_same(stored: dict[str, Any], given: dict[str, Any]) -> None:
    for name in stored["config"]:
        if stored["config"][name] != given["config"][name]:
            raise ValueError(
                f"cannot resume: the interrupted run had {name}={stored['config'][name]}, "
                f"now it is {given['config'][name]}"
            )
    if stored["revision"] != given["revision"]:
        raise ValueError(
            f"cannot resume: {given['config']['model']} was at revision {stored['revision']}, now "
            f"it is at {given['revision']}; give that revision"
        )
    if stored["data"] != given["data"]:
        raise ValueError("cannot resume: the training data is not what the interrupted run had")
    if stored["mechanism"] != given["mechanism"]:
        raise ValueError(
            "cannot resume: the mechanism comes out differently now (another version of the "
            f"accountant?): {stored['mechanism']} became {given['mechanism']}"
        )


def _headline(run: Run) -> str:
    plan = run.plan
    lines = [
        f"{len(plan.train)} training records, {len(plan.evaluation)} held out, "
        f"{plan.task.summary()}, {plan.num_steps} steps, "
        + trained_share(run.trainable, run.frozen),
        privacy_report.in_words(plan, plan.num_steps),
    ]
    nothing = getattr(plan.train, "num_without_targets", 0)
    if nothing:
        lines.append(
            f"{nothing} training records have no token to learn after "
            f"{plan.config.training.max_length} tokens; they still count in the guarantee"
        )
    if plan.train.num_truncated:
        lines.append(
            f"{plan.train.num_truncated} training records are longer than "
            f"{plan.config.training.max_length} tokens and were cut"
        )
    if run.run_key.fixed_seed is not None and plan.mechanism is not None:
        lines.append(f"WARNING: {SEED_WARNING}")
    return "\n".join(lines)


def _attack(plan: Plan, parts: tuple[Any, Any, Any], held_out: Evaluation) -> AttackResult:
    """The loss attack on a random part of the training records against the held-out ones."""
    # Public randomness: which records are attacked is no secret and changes no guarantee.
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(plan.train))[:_ATTACK_RECORDS]
    members = evaluate(plan.task, *parts, plan.train.take(np.sort(chosen)))
    non_members = rng.permutation(held_out.losses)[:_ATTACK_RECORDS]
    return loss_attack(members.losses, non_members)


def _finish(
    plan: Plan,
    directory: RunDirectory,
    privacy: dict[str, Any],
    held_out: Evaluation,
    attack: AttackResult,
    metrics: list[dict[str, Any]],
    samples: list[Sample],
) -> FinetuneResult:
    guarantee = privacy["guarantee"] or {"epsilon": None, "delta": None}
    result = FinetuneResult(
        output_dir=directory.path,
        epsilon=guarantee["epsilon"],
        delta=guarantee["delta"],
        eval_accuracy=held_out.accuracy,
        eval_loss=held_out.loss,
        eval_perplexity=held_out.perplexity,
        attack=attack,
        privacy=privacy,
        metrics=metrics,
        samples=samples,
    )
    write_json(directory.attack, attack.to_dict())
    write_report(directory, plan, result)
    write_text(directory.privacy_page, report_page(privacy))
    directory.forget_secrets()
    return result
