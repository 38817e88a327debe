"""LiRA, BaVarIA and RMIA with shadow adapters, beside attacks on one model alone.

    python -m benchmarks reference_attacks --data sst2/train.tsv

LoRA adapters in the upper layers of all-MiniLM-L6-v2, trained without privacy on half of some
labelled sentences each, all in one program on hidden states that are computed once. A few of the
models are attacked in turn; for each of them the others are the shadows. Every number is a mean
over the attacked models. The file has tab-separated sentence and label, without a header; without a
file, messages of the demo are taken. Writes a JSON file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results
from benchmarks.shadows import Batch, make_loss, with_adapters, without_lower_layers
from dpjax.audit import (
    ShadowTraining,
    balanced_membership,
    bavaria_scores,
    classifier_confidence,
    lira_scores,
    rmia_scores,
    score_attack,
    score_shadows,
    train_shadows,
)
from dpjax.data import DataSource, Records, TextDataset, encode_labelled, read_records
from dpjax.demo.checkpoint import find_minilm
from dpjax.demo.clinic import generate
from dpjax.models import SplitModel, load_classifier, load_tokenizer, read_config
from dpjax.privatize import RunKey

RUN_KEY = RunKey.from_seed(0)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained and attacked."""

    data: Path | None = None
    num_records: int = 400
    """Each model is trained on about half of them."""
    num_models: int = 32
    """One is attacked at a time, the others are its shadows."""
    num_attacked: int = 8
    """How many of the models are attacked."""
    num_steps: int = 120
    expected_batch_size: int = 20
    learning_rate: float = 2e-3
    max_length: int = 32
    upper_layers: int = 2
    """How many of the uppermost layers have adapters."""
    rank: int = 16
    output: Path = Path("benchmarks/results/reference_attacks.json")


def read_data(options: Options) -> Records:
    """The records, as many as are asked for."""
    if options.data is None:
        return generate(options.num_records, seed=0)
    source = DataSource(str(options.data), column_names=("text", "label"))
    records = read_records(source)
    return Records(
        records.texts[: options.num_records], labels=records.labels[: options.num_records]
    )


def prepare(options: Options) -> tuple[SplitModel, Batch]:
    """The model from the lowest trained layer on, and the hidden states that it reads."""
    records, checkpoint = read_data(options), find_minilm()
    names = tuple(sorted(set(records.labels)))
    data: TextDataset = encode_labelled(
        records, load_tokenizer(checkpoint), names, options.max_length
    )
    model = load_classifier(checkpoint, label_names=names, key=jax.random.key(0), pooling="mean")
    # Pooling by the mean adds a layer, which stays as it is.
    last = read_config(checkpoint).num_layers
    layers = tuple(range(last - options.upper_layers, last))
    batch = Batch(
        jnp.asarray(data.input_ids), jnp.asarray(data.attention_mask), jnp.asarray(data.labels)
    )
    return without_lower_layers(with_adapters(model, options.rank, layers), batch)


def train_models(options: Options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of all records under all models, (k, n, K), who was trained on what, and labels."""
    model, records = prepare(options)
    membership = balanced_membership(options.num_models, len(records.labels), run_key=RUN_KEY)
    shadows = train_shadows(
        make_loss(model.graphdef),
        model,
        optax.adam(options.learning_rate),
        records,
        membership,
        ShadowTraining(
            num_steps=options.num_steps, expected_batch_size=options.expected_batch_size
        ),
        run_key=RUN_KEY,
    )

    def logits(trainable: Any, record: Batch, frozen: Any) -> jax.Array:
        return nnx.merge(model.graphdef, trainable, frozen)(record.inputs, record.attention_mask)

    found = score_shadows(logits, shadows.trainable, model.frozen, records)
    return found, membership, np.asarray(records.labels)


def attacks(
    logits: np.ndarray, labels: np.ndarray, membership: np.ndarray, attacked: int
) -> dict[str, np.ndarray]:
    """The scores of all records by attack; the model `attacked` is no shadow."""
    confidence = classifier_confidence(logits, labels)
    every = np.arange(len(labels))
    log_probs = np.asarray(jax.nn.log_softmax(logits.astype(np.float64)))[:, every, labels]
    log_probs = np.minimum(log_probs, 0.0)
    others = np.arange(len(logits)) != attacked
    known = (confidence[attacked], confidence[others], membership[others])
    probabilities = (log_probs[attacked], log_probs[others], membership[others])
    correct = logits[attacked].argmax(axis=-1) == labels
    return {
        "right or wrong": correct.astype(np.float64),
        "loss": log_probs[attacked],
        "LiRA, offline": lira_scores(*known, offline=True),
        "LiRA": lira_scores(*known),
        "BaVarIA": bavaria_scores(*known),
        "RMIA, offline": rmia_scores(*probabilities, *probabilities),
        "RMIA": rmia_scores(*probabilities, *probabilities, offline=False),
    }


def measure(options: Options, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row for each attack."""
    logits, membership, labels = train_models(options)
    right = logits.argmax(axis=-1) == labels
    accuracy = {
        "training": float(right[membership].mean()),
        "held_out": float(right[~membership].mean()),
    }
    progress(f"accuracy: {accuracy}")
    results: dict[str, list[Any]] = {}
    for attacked in range(options.num_attacked):
        is_in = membership[attacked]
        for name, scores in attacks(logits, labels, membership, attacked).items():
            result = score_attack(scores[is_in], scores[~is_in], attack=name)
            results.setdefault(name, []).append(result)
    return [
        {
            "attack": name,
            "auc": [result.auc for result in attacked],
            "tpr_at_1_percent": [result.tpr for result in attacked],
            "accuracy": accuracy,
        }
        for name, attacked in results.items()
    ]


def main(options: Options) -> None:
    """Measures, prints and writes."""
    console = Console()
    rows = measure(options, console.print)
    table = Table(
        "attack",
        "AUC: mean (least, most)",
        "TPR at 1 % FPR",
        title=f"{options.num_models} models, {options.num_attacked} attacked in turn",
    )
    for row in rows:
        auc, tpr = np.array(row["auc"]), np.array(row["tpr_at_1_percent"])
        table.add_row(
            row["attack"],
            f"{auc.mean():.3f} ({auc.min():.3f}, {auc.max():.3f})",
            f"{100 * tpr.mean():.1f} %",
        )
    console.print(table)
    write_results(options.output, options, rows, keys=("attack",))
