"""Time to trace and to compile a clipped-gradient step, as ratios to the ordinary step.

    python -m benchmarks compile_time --num-layers 24

Of a decoder whose layers are unrolled, each with parameters of its own, and of one that scans over
stacked layers. Widths are small by default: what is traced and compiled grows with the number of
operations, not with their sizes. Writes a JSON file. Runs on CPU, GPU or TPU.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results
from benchmarks.support.decoder import (
    DecoderSize,
    decoder_loss,
    unrolled_decoder_loss,
    unstack_layers,
)
from dpjax.privatize import clipped_grad

PyTree = Any

DEFAULT_SIZE = DecoderSize(
    num_layers=24, hidden_size=32, vocab_size=128, head_size=16, batch_size=4, length=16
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    layers: tuple[Literal["unrolled", "scanned"], ...] = ("unrolled", "scanned")
    size: DecoderSize = DEFAULT_SIZE
    rematerialise: bool = False
    """Keep only the inputs of layers, as in training of large models."""
    strategies: tuple[str, ...] = ("materialize", "one_backward", "two_backwards")
    repeats: int = 1
    """How often everything is traced and compiled; medians are reported."""
    output: Path = Path("benchmarks/results/compile_time.json")


def make_steps(options: Options, loss: Callable) -> dict[str, Callable]:
    """The functions compared, all `(params, batch) -> gradients`."""

    def ordinary(params: PyTree, batch: jax.Array) -> PyTree:
        return jax.grad(lambda p: jnp.sum(jax.vmap(loss, (None, 0))(p, batch)))(params)

    def clipped(strategy: str) -> Callable:
        fn = clipped_grad(loss, clip_norm=1.0, strategy=strategy)
        return lambda params, batch: fn(params, batch).grads

    return {"ordinary": ordinary} | {name: clipped(name) for name in options.strategies}


def measure(options: Options) -> list[dict[str, Any]]:
    """One row for each kind of layers and step."""
    stacked, ids = options.size.draw_params(), options.size.draw_ids()
    rows = []
    for layers in options.layers:
        make_loss = unrolled_decoder_loss if layers == "unrolled" else decoder_loss
        loss = make_loss(
            heads=options.size.num_heads,
            rematerialise=options.rematerialise,
            compute_dtype=jnp.float32,
        )
        params = unstack_layers(stacked) if layers == "unrolled" else stacked
        of_layers = [
            {"layers": layers, "step": name} | _times(options, step, params, ids)
            for name, step in make_steps(options, loss).items()
        ]
        base = of_layers[0]
        for row in of_layers:
            row["trace_ratio"] = row["trace_seconds"] / base["trace_seconds"]
            row["compile_ratio"] = row["compile_seconds"] / base["compile_seconds"]
            total, base_total = (r["trace_seconds"] + r["compile_seconds"] for r in (row, base))
            row["total_ratio"] = total / base_total
        rows += of_layers
    return rows


def _times(options: Options, step: Callable, *arguments: PyTree) -> dict[str, float]:
    """Processor seconds of this process: other work on the machine does not count."""
    trace, compiling = [], []
    for _ in range(options.repeats):
        jax.clear_caches()
        start = time.process_time()
        lowered = jax.jit(step).lower(*arguments)
        traced = time.process_time()
        lowered.compile()
        trace.append(traced - start)
        compiling.append(time.process_time() - traced)
    return {
        "trace_seconds": statistics.median(trace),
        "compile_seconds": statistics.median(compiling),
    }


def main(options: Options) -> None:
    """Measures, prints a table, writes the JSON file."""
    rows = measure(options)
    device = jax.devices()[0].device_kind
    table = Table(
        "layers", "step", "trace s", "ratio", "compile s", "ratio", "both", title=f"{device}"
    )
    for row in rows:
        table.add_row(
            row["layers"],
            row["step"],
            f"{row['trace_seconds']:.2f}",
            f"{row['trace_ratio']:.2f}",
            f"{row['compile_seconds']:.2f}",
            f"{row['compile_ratio']:.2f}",
            f"{row['total_ratio']:.2f}",
        )
    Console().print(table)
    write_results(
        options.output,
        options,
        rows,
        keys=("layers", "step"),
        ratios=("total_ratio", "trace_ratio", "compile_ratio"),
        title=f"by the ordinary step, {options.size.num_layers} layers, {device}",
    )
