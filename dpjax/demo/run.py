"""The demo: one recipe with and without privacy on generated clinic messages, side by side."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpjax_accounting import write_text
from rich.console import Console
from rich.table import Table

from dpjax.audit import AttackResult, plot_roc
from dpjax.data import DataSource, Records
from dpjax.demo.checkpoint import find_minilm
from dpjax.demo.clinic import generate
from dpjax.finetuning import Audit, FeatureOptions, FinetuneConfig, Privacy, RunDirectory, Training

if TYPE_CHECKING:
    from dpjax.finetuning import FinetuneResult

NUM_TRAINING_RECORDS = 4000
NUM_HELD_OUT_RECORDS = 1000
TARGET_EPSILON = 3.0
NUM_CANARIES = 300
_DATA_SEED = 2026


@dataclasses.dataclass(frozen=True)
class Demo:
    """A demo that has passed its checks: where it writes, and the checkpoint it tunes."""

    folder: Path
    checkpoint: Path


def check(output_dir: str) -> Demo:
    """Finds the checkpoint and refuses an output folder that holds something.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: with what to do.
    """
    RunDirectory(output_dir).check_free()
    return Demo(Path(output_dir), find_minilm())


def execute(demo: Demo, console: Console) -> None:
    """Writes the data, runs the recipe privately and not, and prints the comparison."""
    from dpjax.finetuning import execute as execute_run
    from dpjax.finetuning import set_up

    train, held_out = write_data(demo.folder / "data")
    results = {}
    for name in ("private", "non_private"):
        console.rule(name.replace("_", "-"))
        config = make_config(demo, train, held_out, non_private=name == "non_private")
        results[name] = execute_run(set_up(config), console)
    private = results["private"]
    audits = {
        f"canaries at ε = {private.epsilon:.3g}": private.audit,
        "canaries without privacy": results["non_private"].audit,
    }
    picture = demo.folder / "roc.png"
    plot_roc(
        {
            name: AttackResult.from_dict(audit["attack"])
            for name, audit in audits.items()
            if audit is not None
        },
        picture,
        epsilon=private.epsilon,
        delta=private.delta,
    )
    console.print(comparison(results["private"], results["non_private"]))
    summary = demo.folder / "result.json"
    write_text(summary, json.dumps(summarise(private, results["non_private"]), indent=2) + "\n")
    console.print(f"These numbers as JSON: {summary}", highlight=False)
    console.print(f"Report: {private.output_dir / 'report.md'}", highlight=False)
    console.print(f"Both audits in one picture: {picture}", highlight=False)


def write_data(folder: Path) -> tuple[Path, Path]:
    """Writes train.csv and held_out.csv with the columns text and label."""
    records = generate(NUM_TRAINING_RECORDS + NUM_HELD_OUT_RECORDS, _DATA_SEED)
    folder.mkdir(parents=True)
    paths = folder / "train.csv", folder / "held_out.csv"
    cut = NUM_TRAINING_RECORDS
    parts = (
        Records(records.texts[:cut], records.labels[:cut]),
        Records(records.texts[cut:], records.labels[cut:]),
    )
    for path, part in zip(paths, parts, strict=True):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(zip(part.texts, part.labels, strict=True))
    return paths


def make_config(demo: Demo, train: Path, held_out: Path, *, non_private: bool) -> FinetuneConfig:
    """The demo's recipe."""
    return FinetuneConfig(
        model=str(demo.checkpoint),
        train_data=DataSource(str(train)),
        eval_data=DataSource(str(held_out)),
        output_dir=str(demo.folder / ("non_private" if non_private else "private")),
        # In large batches noise hides little. Each of these steps takes milliseconds, since what is
        # frozen is computed once.
        tuning="head",
        features=FeatureOptions(layers=(3, 4, 5, 6)),
        privacy=Privacy() if non_private else Privacy(target_epsilon=TARGET_EPSILON, clip_norm=0.3),
        training=Training(
            expected_batch_size=2000,
            microbatch_size="auto",
            num_steps=240,
            optimizer="sgd",
            learning_rate=8.0,
            schedule="constant",
            ema_decay=0.98,
            max_length=32,
        ),
        audit=Audit(num_canaries=NUM_CANARIES, kind="random-labelled", most_share=0.1),
        non_private=non_private,
    )


def summarise(private: FinetuneResult, non_private: FinetuneResult) -> dict[str, dict[str, Any]]:
    """Accuracy, ε and what the canaries certify of both runs; None for what is not known."""

    def describe(result: FinetuneResult) -> dict[str, Any]:
        audit = result.audit
        return {
            "accuracy": result.eval_accuracy,
            "epsilon": result.epsilon,
            "certified_epsilon": None if audit is None else audit["certified"]["epsilon"],
            "canary_tpr": None if audit is None else audit["attack"]["tpr"],
            "canary_auc": None if audit is None else audit["attack"]["auc"],
            "verdict": None if audit is None else audit["verdict"]["conclusion"],
        }

    return {"private": describe(private), "not_private": describe(non_private)}


def comparison(private: FinetuneResult, non_private: FinetuneResult) -> Table:
    """Accuracy, ε and attack of both runs, a column each."""
    table = Table("", "private", "not private", title="The same recipe with and without privacy")

    def accuracy(result: FinetuneResult) -> str:
        return "not known" if result.eval_accuracy is None else f"{result.eval_accuracy:.3f}"

    def attack(result: FinetuneResult) -> str:
        if result.attack is None:
            return "not made"
        low, high = result.attack.auc_interval
        return f"{result.attack.auc:.3f} ({low:.3f} to {high:.3f})"

    def caught(result: FinetuneResult) -> str:
        return "not made" if result.attack is None else f"{result.attack.tpr:.3f}"

    def certified(result: FinetuneResult) -> str:
        return (
            "not known" if result.audit is None else f"{result.audit['certified']['epsilon']:.3f}"
        )

    def canaries_found(result: FinetuneResult) -> str:
        if result.audit is None:
            return "not known"
        found = result.audit["attack"]
        return f"AUC {found['auc']:.3f}, TPR {found['tpr']:.3f} at 1 % FPR"

    both = (private, non_private)
    table.add_row("accuracy on held-out messages", *map(accuracy, both))
    table.add_row("ε spent", f"{private.epsilon:.3f} at δ = {private.delta:g}", "unbounded")
    table.add_row("attack AUC (95 %), 0.5 = guessing", *map(attack, both))
    table.add_row("attack TPR at 1 % FPR", *map(caught, both))
    table.add_row("ε that canaries certify, at least", *map(certified, both))
    table.add_row("canaries found", *map(canaries_found, both))
    return table
