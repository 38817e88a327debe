"""Time to train shadow adapters together, against one run for each and calls of one program.

    python -m benchmarks shadows --num-shadows 32

LoRA adapters on an encoder, the MiniLM of the demo where its package is installed, else random
weights of that size; texts are random tokens. With adapters in the upper layers only, the hidden
states below are computed once for all shadows; that time is included. What is compared runs in one
process, one after the other, on the same batches:

* together: `train_shadows` for all shadows, with its compilation;
* separate runs: `train_shadows` for one shadow at a time on the whole model, each with its
  compilation, as separate processes would;
* calls: one compiled program for one shadow on the whole model, called for each; the compilation is
  counted once.

Writes a JSON file. Runs on CPU, GPU or TPU.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table
from transformers import BertConfig

from benchmarks.results_file import write_results
from dpjax.audit import ShadowTraining, balanced_membership, shadow_key, train_shadows
from dpjax.audit.references.batches import ShadowBatches, draw_batches
from dpjax.audit.references.mapping import Mapping, choose_mapping
from dpjax.audit.references.training import compile_training, split_by_shadow
from dpjax.demo.checkpoint import find_minilm
from dpjax.models import (
    LoraConfig,
    SequenceClassifier,
    SplitModel,
    Trainable,
    add_lora,
    cut_lower_layers,
    load_classifier,
    lower_hidden_states,
    lowest_trained_layer,
    parse_config,
    split_trainable,
)
from dpjax.privatize import RunKey

RUN_KEY = RunKey.from_seed(0)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    num_shadows: int = 32
    num_separate: int | None = None
    """How many separate runs are timed; their mean stands for the others. Default: all."""
    num_records: int = 256
    length: int = 32
    num_steps: int = 8
    expected_batch_size: int = 16
    microbatch_size: int = 8
    rank: int = 8
    upper_layers: int = 2
    """How many of the uppermost layers have adapters in the first comparison."""
    private: bool = False
    """Clip and add noise."""
    mapping: Mapping = "auto"
    random_layers: int | None = None
    """Take random weights with so many layers of MiniLM's size instead of the checkpoint."""
    output: Path = Path("benchmarks/results/shadows.json")


class Batch(NamedTuple):
    """Records as the loss reads them; `inputs` are ids, or hidden states of a cut model."""

    inputs: jax.Array
    attention_mask: jax.Array
    labels: jax.Array


def make_model(options: Options, layers: tuple[int, ...] | None) -> SplitModel:
    """A classifier of two labels with adapters on the linear layers of `layers`, or of all."""
    if options.random_layers is None:
        model = load_classifier(
            find_minilm(), label_names=("a", "b"), key=jax.random.key(0), pooling="first"
        )
    else:
        size = BertConfig(
            hidden_size=384,
            num_hidden_layers=options.random_layers,
            num_attention_heads=12,
            intermediate_size=1536,
        )
        config = parse_config(size.to_dict())
        model = SequenceClassifier(config, num_labels=2, rngs=nnx.Rngs(0))
    if layers is not None:
        layers = tuple(index + model.config.num_layers for index in layers)
    return with_adapters(model, options.rank, layers)


def with_adapters(
    model: SequenceClassifier, rank: int, layers: tuple[int, ...] | None
) -> SplitModel:
    """The model with adapters on the linear layers of `layers`, or of all, split by them."""
    lora = LoraConfig(
        rank=rank,
        target_modules=("query", "key", "value", "attention.output.dense", "intermediate.dense"),
        layers_to_transform=layers,
    )
    add_lora(model, lora, key=jax.random.key(1))
    return split_trainable(model, Trainable.lora())


def without_lower_layers(model: SplitModel, records: Batch) -> tuple[SplitModel, Batch]:
    """The model from the lowest trained layer on, and the hidden states that it reads."""
    layer = lowest_trained_layer(model)
    if not layer:
        return model, records
    hidden = lower_hidden_states(model, records.inputs, records.attention_mask, layer)
    return cut_lower_layers(model, layer), records._replace(inputs=hidden)


def make_loss(graphdef: Any) -> Callable:
    """The cross-entropy of one record."""

    def loss(trainable: Any, record: Batch, frozen: Any) -> jax.Array:
        logits = nnx.merge(graphdef, trainable, frozen)(record.inputs, record.attention_mask)
        return optax.softmax_cross_entropy_with_integer_labels(logits, record.labels)

    return loss


def make_records(options: Options) -> Batch:
    """Random tokens and labels."""
    rng = np.random.default_rng(0)
    shape = (options.num_records, options.length)
    ids = rng.integers(1000, 30000, shape).astype(np.int32)
    labels = rng.integers(0, 2, options.num_records).astype(np.int32)
    return Batch(jnp.asarray(ids), jnp.ones(shape, bool), jnp.asarray(labels))


class Comparison:
    """The three ways to train the same shadows of one model."""

    def __init__(self, options: Options, layers: tuple[int, ...] | None) -> None:
        self.options = options
        self.model = make_model(options, layers)
        self.records = make_records(options)
        self.membership = balanced_membership(
            options.num_shadows, options.num_records, run_key=RUN_KEY
        )
        noise = {"clip_norm": 1.0, "noise_multiplier": 1.0} if options.private else {}
        self.training = ShadowTraining(
            num_steps=options.num_steps,
            expected_batch_size=options.expected_batch_size,
            microbatch_size=options.microbatch_size,
            **noise,
        )
        self.optimizer = optax.adam(1e-3)

    def train(self, model: SplitModel, records: Batch, membership: np.ndarray) -> Any:
        """Trains the shadows of `membership` in a program of their own."""
        shadows = train_shadows(
            make_loss(model.graphdef),
            model,
            self.optimizer,
            records,
            membership,
            self.training,
            run_key=RUN_KEY,
            mapping=self.options.mapping,
        )
        return shadows.trainable

    def together(self) -> Any:
        """Trains all shadows on hidden states that are computed once, where layers lie below."""
        model, records = without_lower_layers(self.model, self.records)
        return self.train(model, records, self.membership)

    def separate(self) -> list[float]:
        """Seconds of one run for each shadow."""
        number = self.options.num_separate or self.options.num_shadows
        return [
            timed(lambda row=row: self.train(self.model, self.records, row[None]))[0]
            for row in self.membership[:number]
        ]

    def calls(self) -> Any:
        """Trains the shadows one by one with one program."""
        keys = [shadow_key(RUN_KEY, shadow) for shadow in range(self.options.num_shadows)]
        batches = draw_batches(
            self.membership,
            keys,
            num_steps=self.options.num_steps,
            expected_batch_size=self.options.expected_batch_size,
            microbatch_size=self.options.microbatch_size,
        )
        mapping = choose_mapping(self.options.mapping)
        loss = make_loss(self.model.graphdef)
        program = compile_training(loss, self.optimizer, self.training, mapping, 1)
        trained = []
        for shadow, key in enumerate(keys):
            rows = ShadowBatches(*(part[shadow : shadow + 1] for part in batches))
            own = split_by_shadow(self.model, self.training, [key], rows)
            trained.append(jax.block_until_ready(program(own, self.model.frozen, self.records)[0]))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trained)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a function takes with nothing compiled before, and its result."""
    jax.clear_caches()
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def measure(options: Options) -> list[dict[str, Any]]:
    """One row for adapters in the upper layers, one for adapters everywhere."""
    upper = tuple(range(-options.upper_layers, 0))
    rows = []
    for name, layers in ((f"upper {options.upper_layers}", upper), ("all", None)):
        comparison = Comparison(options, layers)
        together, shadows = timed(comparison.together)
        calls, same = timed(comparison.calls)
        separate = comparison.separate() if layers is not None else []
        whole = options.num_shadows * float(np.mean(separate)) if separate else None
        differences = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), shadows, same)
        rows.append(
            {
                "layers": name,
                "together_seconds": together,
                "calls_seconds": calls,
                "separate_seconds": separate,
                "together_by_calls": together / calls,
                "together_by_separate": None if whole is None else together / whole,
                "largest_difference": float(max(jax.tree.leaves(differences))),
            }
        )
    return rows


def main(options: Options) -> None:
    """Measures, prints and writes."""
    rows = measure(options)
    title = f"{options.num_shadows} shadows, {options.num_steps} steps"
    table = Table(
        "adapters in layers",
        "together",
        "calls of one program",
        "separate runs, mean",
        "together / calls",
        "together / separate",
        "largest difference",
        title=title,
    )
    for row in rows:
        separate, ratio = row["separate_seconds"], row["together_by_separate"]
        table.add_row(
            row["layers"],
            f"{row['together_seconds']:.1f} s",
            f"{row['calls_seconds']:.1f} s",
            f"{np.mean(separate):.1f} s" if separate else "",
            f"{row['together_by_calls']:.2f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{row['largest_difference']:.1e}",
        )
    Console().print(table)
    write_results(
        options.output,
        options,
        rows,
        keys=("layers",),
        ratios=("together_by_calls", "together_by_separate"),
        title=title,
    )
