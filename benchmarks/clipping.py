"""Time and compiled memory of a clipped-gradient step, as ratios to the ordinary step.

    python benchmarks/clipping.py --model decoder --batch-size 16 --length 128
    python benchmarks/clipping.py --model encoder --tuning lora --batch-size 32 --length 48

All steps run on a random model of the given size, at the same batch, in the same process:
the ordinary step, every strategy with and without microbatches, and `jax_privacy.clipped_grad` and
Opacus where installed (`pip install -e ".[bench]"`, torch and opacus). Opacus is compared with the
ordinary step of PyTorch. Writes a JSON file and a picture beside it. Runs on CPU, GPU or TPU.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from decoder import DecoderSize, decoder_loss
from flax import nnx
from results_file import write_results
from rich.console import Console
from rich.table import Table
from transformers import BertConfig

from dpjax.finetuning.tasks.classification import LabelledBatch, SequenceClassification
from dpjax.models import (
    LoraConfig,
    SequenceClassifier,
    Trainable,
    add_lora,
    parse_config,
    split_trainable,
)
from dpjax.privatize import clipped_grad

DEFAULT_SIZE = DecoderSize(
    num_layers=4, hidden_size=256, vocab_size=8192, head_size=64, batch_size=16, length=128
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    model: Literal["decoder", "encoder"] = "decoder"
    """A GPT-2-shaped language model, or a BERT-shaped classifier."""
    tuning: Literal["lora", "full"] = "full"
    """LoRA is measured on the encoder only."""
    size: DecoderSize = DEFAULT_SIZE
    """Of the encoder too."""
    vocab_chunk: int | None = None
    """Logits held at once, of every step that is compared; default: of the whole vocabulary."""
    rematerialise: bool = False
    """Decoder: keep only the inputs of layers, as in training of large models."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    rank: int = 8
    strategies: tuple[str, ...] = ("materialize", "one_backward", "two_backwards", "auto")
    microbatch_sizes: tuple[int, ...] = ()
    """Measure the strategies, and jax_privacy, in microbatches of these sizes too."""
    jax_privacy: bool = True
    """Measure jax_privacy too, if it is installed."""
    opacus: bool = True
    """Measure Opacus too, if it is installed, on CPU with the decoder in float32."""
    repeats: int = 7
    """0 compiles only, for the memory of sizes that would take too long to run."""
    output: Path = Path("benchmarks/results/clipping.json")

    def __post_init__(self) -> None:
        if self.model == "decoder" and self.tuning == "lora":
            raise ValueError("LoRA is measured with --model encoder")


@dataclasses.dataclass(frozen=True)
class Problem:
    """`loss(params, frozen, example)`, its arguments, and a batch with a leading example axis."""

    loss: Callable
    params: Any
    frozen: Any
    batch: Any


def build(options: Options) -> Problem:
    """A random model and a random batch."""
    ids = options.size.draw_ids()
    if options.model == "encoder":
        return _encoder(options, ids)
    loss = decoder_loss(
        heads=options.size.num_heads,
        rematerialise=options.rematerialise,
        compute_dtype=jnp.dtype(options.compute_dtype),
        vocab_chunk=options.vocab_chunk,
    )
    params = options.size.draw_params()
    return Problem(lambda p, frozen, example: loss(p, example), params, (), ids)


def _encoder(options: Options, ids: jax.Array) -> Problem:
    size = options.size
    bert = BertConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=4 * size.hidden_size,
        max_position_embeddings=max(512, size.length),
    )
    model = SequenceClassifier(parse_config(bert.to_dict()), num_labels=2, rngs=nnx.Rngs(0))
    if options.tuning == "lora":
        add_lora(
            model,
            LoraConfig(
                rank=options.rank,
                alpha=16.0,
                target_modules="all-linear",
            ),
            key=jax.random.key(1),
        )
    graphdef, trainable, frozen = split_trainable(model, Trainable(options.tuning))
    task = SequenceClassification()
    batch = LabelledBatch(ids, jnp.ones(ids.shape, bool), jnp.zeros(len(ids), jnp.int32))
    loss = task.loss_fn(graphdef)
    return Problem(
        lambda p, frozen, example: loss(p, example, frozen),
        trainable,
        frozen,
        batch,
    )


def make_steps(options: Options, problem: Problem) -> dict[str, Callable]:
    """The functions compared, all `(params, frozen, batch) -> gradients`."""

    def non_private(params: Any, frozen: Any, batch: Any) -> Any:
        one = jax.vmap(problem.loss, (None, None, 0))
        return jax.grad(lambda p: jnp.sum(one(p, frozen, batch)))(params)

    def clipped(strategy: str, microbatch_size: int | None) -> Callable:
        def step(params: Any, frozen: Any, batch: Any) -> Any:
            fn = clipped_grad(
                lambda p, example: problem.loss(p, frozen, example),
                clip_norm=1.0,
                strategy=strategy,
                microbatch_size=microbatch_size,
            )
            return fn(params, batch).grads

        return step

    steps = {"non-private": non_private}
    for size in (None, *options.microbatch_sizes):
        suffix = f", {size} at once" if size else ""
        steps |= {name + suffix: clipped(name, size) for name in options.strategies}
        if options.jax_privacy and importlib.util.find_spec("jax_privacy"):
            steps["jax_privacy" + suffix] = _jax_privacy_step(problem, size)
    return steps


def _jax_privacy_step(problem: Problem, microbatch_size: int | None) -> Callable:
    from jax_privacy import clipping

    def step(params: Any, frozen: Any, batch: Any) -> Any:
        fn = clipping.clipped_grad(
            lambda p, example: problem.loss(p, frozen, example),
            l2_clip_norm=1.0,
            batch_argnums=1,
            keep_batch_dim=False,
            microbatch_size=microbatch_size,
        )
        return fn(params, batch)

    return step


def make_torch_steps(options: Options, problem: Problem) -> dict[str, Callable]:
    """Steps of PyTorch that can be compared: none where Opacus is missing or does not fit."""
    fits = options.model == "decoder" and options.compute_dtype == "float32"
    on_cpu = jax.default_backend() == "cpu"
    wanted = options.opacus and options.repeats and fits and on_cpu and not options.rematerialise
    if not (wanted and importlib.util.find_spec("opacus")):
        return {}
    from opacus_steps import opacus_steps

    return opacus_steps(
        np.asarray(problem.batch),
        layers=options.size.num_layers,
        size=options.size.hidden_size,
        vocab=options.size.vocab_size,
        length=options.size.length,
        head_size=options.size.head_size,
    )


def measure(options: Options) -> list[dict[str, Any]]:
    """One row a step function; times are interleaved, so that drift of the machine hits all."""
    problem = build(options)
    arguments = (problem.params, problem.frozen, problem.batch)
    runs, rows = {}, []
    for name, step in make_steps(options, problem).items():
        start = time.perf_counter()
        compiled = jax.jit(step).lower(*arguments).compile()
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis().temp_size_in_bytes
        rows.append({"step": name, "base": "non-private", "compile_seconds": seconds})
        rows[-1] |= {"temporary_bytes": memory, "seconds": []}
        runs[name] = functools.partial(_run, compiled, arguments)
    for name, step in make_torch_steps(options, problem).items():
        rows.append({"step": name, "base": "torch non-private", "seconds": []})
        runs[name] = step
    if options.repeats:
        _time(runs, rows, options.repeats)
    by_name = {row["step"]: row for row in rows}
    for row in rows:
        base = by_name[row["base"]]
        if options.repeats:
            pairs = zip(row["seconds"], base["seconds"], strict=True)
            row["time_ratio"] = statistics.median(own / other for own, other in pairs)
        if "temporary_bytes" in row:
            row["memory_ratio"] = row["temporary_bytes"] / base["temporary_bytes"]
    return rows


def _run(compiled: Callable, arguments: tuple) -> None:
    jax.block_until_ready(compiled(*arguments))


def _time(runs: dict[str, Callable], rows: list[dict[str, Any]], repeats: int) -> None:
    for row in rows:
        runs[row["step"]]()
    for _ in range(repeats):
        for row in rows:
            start = time.perf_counter()
            runs[row["step"]]()
            row["seconds"].append(time.perf_counter() - start)


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Bars of the two ratios."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = [
        (key, label)
        for key, label in (
            ("time_ratio", "time / ordinary step"),
            ("memory_ratio", "temporary memory / ordinary step"),
        )
        if key in rows[0]
    ]
    figure = Figure(figsize=(4.5 * len(keys), 1 + 0.26 * len(rows)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(keys), squeeze=False)[0]
    for axes, (key, label) in zip(all_axes, keys, strict=True):
        shown = {row["step"]: row[key] for row in rows if key in row}
        bars = axes.barh(list(shown), list(shown.values()), color="#0072B2")
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_xlabel(label)
        axes.margins(x=0.2)
        axes.invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path)


def main(options: Options) -> None:
    """Measures, prints a table, writes the JSON file and the picture."""
    rows = measure(options)
    device = jax.devices()[0].device_kind
    table = Table("step", "median ms", "time ratio", "temporary MB", "memory ratio", "compile s")
    for row in rows:
        median = 1e3 * statistics.median(row["seconds"]) if row["seconds"] else None
        table.add_row(
            row["step"],
            _cell(median, ".0f"),
            _cell(row.get("time_ratio"), ".2f"),
            _cell(row["temporary_bytes"] / 1e6 if "temporary_bytes" in row else None, ".0f"),
            _cell(row.get("memory_ratio"), ".2f"),
            _cell(row.get("compile_seconds"), ".1f"),
        )
    Console(width=100).print(table)
    write_results(options.output, options, rows)
    size = options.size
    title = (
        f"{options.model}, {options.tuning}, {size.num_layers} × {size.hidden_size}, "
        f"batch {size.batch_size} × {size.length} tokens, {device}"
    )
    draw(rows, title, options.output.with_suffix(".png"))


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main(tyro.cli(Options, config=(tyro.conf.OmitArgPrefixes,)))
