"""Time and compiled memory of a clipped-gradient step, as ratios to the ordinary step.

    python benchmarks/clipping.py --tuning lora --batch-size 32 --length 48

Both steps run on a random encoder of the given size, at the same batch, in the same process. Writes
a JSON file and a picture beside it. Runs on CPU, GPU or TPU.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from dpjax.finetuning.step import Microbatch, make_loss
from dpjax.models import EncoderConfig, SequenceClassifier, add_lora, split_trainable
from dpjax.privatize import clipped_grad


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured; the default sizes are those of MiniLM-L6."""

    tuning: Literal["lora", "full"] = "lora"
    batch_size: int = 32
    length: int = 48
    num_layers: int = 6
    hidden_size: int = 384
    vocab_size: int = 30522
    rank: int = 8
    microbatch_sizes: tuple[int, ...] = (8, 32)
    repeats: int = 7
    output: Path = Path("benchmarks/results/clipping.json")


def build(options: Options) -> tuple[Any, Any, Any]:
    """A random classifier, split into structure, trained and frozen parameters."""
    config = EncoderConfig(
        model_type="bert",
        vocab_size=options.vocab_size,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        num_heads=options.hidden_size // 32,
        intermediate_size=4 * options.hidden_size,
        max_positions=max(512, options.length),
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        activation="gelu",
        initializer_range=0.02,
    )
    model = SequenceClassifier(config, num_labels=2, rngs=nnx.Rngs(0))
    if options.tuning == "lora":
        add_lora(
            model,
            rank=options.rank,
            alpha=16.0,
            target_modules="all-linear",
            key=jax.random.key(1),
        )
    return split_trainable(model, options.tuning)


def make_steps(options: Options, graphdef: Any) -> dict[str, Callable]:
    """The functions compared, all `(trainable, frozen, batch) -> gradients`."""

    def non_private(trainable: Any, frozen: Any, batch: Microbatch) -> Any:
        loss = make_loss(graphdef, frozen)
        return jax.grad(lambda p: jnp.sum(jax.vmap(loss, (None, 0))(p, batch)))(trainable)

    def clipped(microbatch_size: int) -> Callable:
        def step(trainable: Any, frozen: Any, batch: Microbatch) -> Any:
            loss = make_loss(graphdef, frozen)
            fn = clipped_grad(loss, clip_norm=1.0, microbatch_size=microbatch_size)
            return fn(trainable, batch).grads

        return step

    sizes = [size for size in options.microbatch_sizes if size <= options.batch_size]
    return {"non-private": non_private} | {f"materialize, {size}": clipped(size) for size in sizes}


def measure(options: Options) -> list[dict[str, Any]]:
    """One row a step function; times are interleaved, so that drift of the machine hits all."""
    graphdef, trainable, frozen = build(options)
    shape = (options.batch_size, options.length)
    rng = np.random.default_rng(0)
    batch = Microbatch(
        jnp.asarray(rng.integers(0, options.vocab_size, shape), jnp.int32),
        jnp.ones(shape, bool),
        jnp.zeros(options.batch_size, jnp.int32),
    )
    compiled, rows = {}, []
    for name, step in make_steps(options, graphdef).items():
        start = time.perf_counter()
        compiled[name] = jax.jit(step).lower(trainable, frozen, batch).compile()
        memory = compiled[name].memory_analysis()
        rows.append(
            {
                "step": name,
                "compile_seconds": time.perf_counter() - start,
                "temporary_bytes": memory.temp_size_in_bytes,
                "seconds": [],
            }
        )
        jax.block_until_ready(compiled[name](trainable, frozen, batch))
    for _ in range(options.repeats):
        for row in rows:
            start = time.perf_counter()
            jax.block_until_ready(compiled[row["step"]](trainable, frozen, batch))
            row["seconds"].append(time.perf_counter() - start)
    base = rows[0]
    for row in rows:
        pairs = zip(row["seconds"], base["seconds"], strict=True)
        row["time_ratio"] = statistics.median(own / other for own, other in pairs)
        row["memory_ratio"] = row["temporary_bytes"] / base["temporary_bytes"]
    return rows


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Bars of the two ratios."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    names = [row["step"] for row in rows]
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("time_ratio", "memory_ratio"),
        ("time / non-private", "temporary memory / non-private"),
        strict=True,
    ):
        bars = axes.barh(names, [row[key] for row in rows], color="#0072B2")
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
    table = Table("step, microbatch", "median ms", "time ratio", "temporary MB", "memory ratio")
    for row in rows:
        table.add_row(
            row["step"],
            f"{1e3 * statistics.median(row['seconds']):.0f}",
            f"{row['time_ratio']:.2f}",
            f"{row['temporary_bytes'] / 1e6:.0f}",
            f"{row['memory_ratio']:.2f}",
        )
    Console().print(table)
    result = {
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "jax": jax.__version__,
        "options": dataclasses.asdict(options) | {"output": None},
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    title = f"{options.tuning}, batch {options.batch_size} × {options.length} tokens, {device}"
    draw(rows, title, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Options))
