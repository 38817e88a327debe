"""What audits find in a pretrained decoder that learns by heart, and in one that does not.

    python -m benchmarks positive_control --data e2e/dev.csv

One recipe of `dpjax.finetune` with LoRA, once without privacy and once at ε = 4, on a few hundred
short texts with new-token canaries among them. An audit that finds nothing in the first run could
find nothing in any. The file has a column `ref` of texts. The decoder is SmolLM2-135M-Instruct,
where its package is installed; `--model` names any other.

Leaves the run directories, a page with both audits, and a JSON file. Attacks on the training
records compare them with as many that a shuffle has held out; the base model is known to them.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import dpjax
from benchmarks.results_file import write_results
from dpjax import audit
from dpjax.data import Texts, encode_language
from dpjax.demo.checkpoint import find_smollm2
from dpjax.models import load_causal_lm, load_tokenizer

BASE_CALIBRATED = ("ratio", "ez", "wbc")
ALONE = ("loss", "min_k", "min_k_plus")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained and attacked."""

    data: Path
    folder: Path = Path("runs/positive_control")
    model: Path | None = None
    num_records: int = 200
    num_canaries: int = 160
    num_epochs: float = 16.0
    expected_batch_size: int = 10
    learning_rate: float = 3e-3
    private_learning_rate: float = 2e-4
    """With privacy. At the other one noise would drown the model."""
    max_length: int = 48
    rank: int = 16
    target_epsilon: float = 4.0
    output: Path = Path("benchmarks/results/positive_control.json")


def write_data(options: Options) -> dict[str, Path]:
    """Writes different texts, training and held-out ones, as many of each."""
    with options.data.open(newline="", encoding="utf-8") as file:
        texts = sorted({row["ref"] for row in csv.DictReader(file)})
    random.Random(0).shuffle(texts)
    options.folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for index, name in enumerate(("train", "held_out")):
        paths[name] = options.folder / f"{name}.jsonl"
        part = texts[index * options.num_records : (index + 1) * options.num_records]
        rows = "".join(json.dumps({"text": text}) + "\n" for text in part)
        paths[name].write_text(rows, encoding="utf-8")
    return paths


def train(options: Options, checkpoint: Path, *, private: bool) -> Path:
    """Runs the recipe, or goes on with it; returns the run directory."""
    folder = options.folder / ("private" if private else "not_private")
    if (folder / "audit.json").exists():
        return folder
    paths = write_data(options)
    dpjax.finetune(
        model=checkpoint,
        train_data=paths["train"],
        eval_data=paths["held_out"],
        output_dir=folder,
        task="causal_lm",
        non_private=not private,
        privacy={"target_epsilon": options.target_epsilon} if private else {},
        lora={"rank": options.rank, "alpha": float(options.rank)},
        training={
            "expected_batch_size": options.expected_batch_size,
            "microbatch_size": options.expected_batch_size,
            "num_epochs": options.num_epochs,
            "learning_rate": options.private_learning_rate if private else options.learning_rate,
            "max_length": options.max_length,
        },
        compute={"scan_layers": True},
        audit={"num_canaries": options.num_canaries, "kind": "new-token", "most_share": 0.3},
        resume=True,
    )
    return folder


def measure(options: Options, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Perplexity on the held-out texts, and attacks on the training records, by score."""
    tuned = load_causal_lm(folder / "model")
    base = load_causal_lm(checkpoint)
    tokenizer = load_tokenizer(checkpoint, needs_padding=False)
    texts = []
    for name in ("train", "held_out"):
        lines = (options.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        texts += [json.loads(line)["text"] for line in lines]
    records = encode_language(Texts(texts), tokenizer, options.max_length)
    names = (*BASE_CALIBRATED, *ALONE)
    evidence = audit.collect_evidence(names, records, tuned=tuned, base=base)
    scores = audit.compute_scores(names, evidence)
    number = options.num_records
    return {
        "perplexity": perplexity(evidence.tuned.take(np.arange(number, 2 * number))),
        "base_perplexity": perplexity(evidence.base.take(np.arange(number, 2 * number))),
        "records": {
            name: audit.score_attack(values[:number], values[number:], attack=name).to_dict()
            for name, values in scores.items()
        },
    }


def perplexity(statistics: audit.TokenStatistics) -> float:
    """Of all target tokens together."""
    return float(np.exp(-statistics.log_probs[statistics.is_target].mean()))


def main(options: Options) -> None:
    """Trains, attacks, prints and writes."""
    checkpoint = options.model or find_smollm2()
    console = Console()
    rows = []
    reports = {}
    for private in (False, True):
        folder = train(options, checkpoint, private=private)
        report = audit.read_audit_report(folder / "audit.json")
        name = f"ε = {report['claimed_epsilon']:.3g}" if private else "without privacy"
        reports[name] = report
        rows.append(
            {
                "run": name,
                "verdict": report["verdict"]["conclusion"],
                "certified_epsilon": report["certified"]["epsilon"],
                "canaries": report["attack"],
                "extraction": report["extraction"],
                **measure(options, checkpoint, folder),
            }
        )
    page = options.folder / "audits.html"
    page.write_text(audit.comparison_page(reports), encoding="utf-8")
    table = Table("", *(row["run"] for row in rows), title="Positive control")
    table.add_row("perplexity on held-out texts", *(f"{row['perplexity']:.2f}" for row in rows))
    table.add_row("  before tuning", *(f"{row['base_perplexity']:.2f}" for row in rows))
    table.add_row("certified ε", *(f"{row['certified_epsilon']:.2f}" for row in rows))
    for name in ("auc", "tpr"):
        found = (f"{row['canaries'][name]:.3f}" for row in rows)
        table.add_row(f"canaries: {name.upper()}", *found)
    for name in (*BASE_CALIBRATED, *ALONE):
        found = (f"{row['records'][name]['auc']:.3f}" for row in rows)
        table.add_row(f"records: AUC of {name}", *found)
    console.print(table)
    console.print(f"Both audits: {page}")
    write_results(options.output, options, rows, keys=("run",))
