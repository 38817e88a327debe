"""Time and compiled memory of a clipped-gradient step, as ratios to the ordinary step.

    python -m benchmarks clipping --model decoder --batch-size 16 --length 128
    python -m benchmarks clipping --model encoder --tuning lora --batch-size 32 --length 48

All steps run on a random model of the given size, at the same batch and in turn: the ordinary step,
every strategy with and without microbatches, and other libraries where they are installed:
jax_privacy (`pip install -e ".[bench]"`) and jaxdpopt (`pip install --no-deps jaxdpopt`) in this
process, Opacus (hooks and ghost clipping) and opake in another. These two are compared with the
ordinary step of PyTorch: on CPU it takes less time than XLA's. Writes a JSON file and a picture
beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table
from transformers import BertConfig

from benchmarks.results_file import write_results
from benchmarks.support.auto_choice import BesideBest, compare_auto
from benchmarks.support.decoder import DecoderSize, decoder_loss
from benchmarks.support.peers import jax_peer_steps
from benchmarks.support.presets import Preset
from benchmarks.support.timing import median_ratio, spread_of, time_in_turns
from benchmarks.support.torch_process import torch_peer_steps
from dpjax.finetuning.tasks.classification import LabelledBatch, SequenceClassification
from dpjax.models import (
    LoraConfig,
    SequenceClassifier,
    Trainable,
    add_lora,
    parse_config,
    split_trainable,
)
from dpjax.privatize import clipped_grad, explain
from dpjax.privatize.structured.costs.choice import StrategyChoice

DEFAULT_SIZE = DecoderSize(
    num_layers=4, hidden_size=256, vocab_size=8192, head_size=64, batch_size=16, length=128
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    preset: Preset = "cpu"
    """Sizes for a kind of machine; default: this one. Other options go before it."""
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
    peers: bool = True
    """Measure the other libraries that are installed: jaxdpopt with full tuning; Opacus and opake
    on CPU, with the decoder in float32 and no layer computed twice."""
    repeats: int = 7
    """0 compiles only, for the memory of sizes that would take too long to run."""
    output: Path = Path("benchmarks/results/clipping.json")

    def __post_init__(self) -> None:
        if self.model == "decoder" and self.tuning == "lora":
            raise ValueError("LoRA is measured with --model encoder")


_GPT2_SMALL: dict[str, Any] = {
    "size": DecoderSize(
        num_layers=12, hidden_size=768, vocab_size=50257, head_size=64, batch_size=32, length=256
    ),
    "compute_dtype": "bfloat16",
}
# A device of a TPU has less memory than the GPU: gradients of single records would not fit.
_ON_TPU = _GPT2_SMALL | {
    "rematerialise": True,
    "vocab_chunk": 4096,
    "strategies": ("one_backward", "two_backwards", "auto"),
    "peers": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "size": DecoderSize(
            num_layers=1, hidden_size=32, vocab_size=64, head_size=16, batch_size=4, length=16
        ),
        "strategies": ("one_backward",),
        "peers": False,
        "repeats": 2,
    },
    "cpu": {},
    "h200": _GPT2_SMALL | {"microbatch_sizes": (8,)},
    "v5e-4": _ON_TPU,
    "v5p-8": _ON_TPU,
    "v6e-8": _ON_TPU,
}


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

    def ordinary(params: Any, frozen: Any, batch: Any) -> Any:
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

    steps = {"ordinary": ordinary}
    for size, suffix in _suffixes(options).items():
        steps |= {name + suffix: clipped(name, size) for name in options.strategies}
        if options.peers:
            peers = jax_peer_steps(problem.loss, size, is_full=options.tuning == "full")
            steps |= {name + suffix: step for name, step in peers.items()}
    return steps


def _suffixes(options: Options) -> dict[int | None, str]:
    """What follows the names of steps in microbatches, by their size; None: the whole batch."""
    return {None: ""} | {size: f", {size} at once" for size in options.microbatch_sizes}


def choices_of_auto(options: Options, problem: Problem) -> dict[str, StrategyChoice]:
    """What `auto` takes for the batch and for microbatches, and by what it decides; by suffix."""
    choices = {}
    for size, suffix in _suffixes(options).items() if "auto" in options.strategies else ():
        explanation = explain(
            lambda params, example, frozen: problem.loss(params, frozen, example),
            problem.params,
            jax.tree.map(lambda leaf, size=size: leaf[:size], problem.batch),
            problem.frozen,
        )
        choices[suffix] = explanation.auto
    return choices


@contextlib.contextmanager
def make_torch_steps(options: Options, problem: Problem) -> Iterator[dict[str, Callable]]:
    """Gives steps of PyTorch that can be compared: none where nothing is installed that fits."""
    fits = options.model == "decoder" and options.compute_dtype == "float32"
    on_cpu = jax.default_backend() == "cpu"
    wanted = options.peers and options.repeats and fits and on_cpu and not options.rematerialise
    if not wanted:
        yield {}
        return
    with torch_peer_steps(np.asarray(problem.batch), options.size) as steps:
        yield steps


def measure(options: Options) -> list[dict[str, Any]]:
    """Returns one row for each step."""
    problem = build(options)
    arguments = (problem.params, problem.frozen, problem.batch)
    runs: dict[str, Callable[[], object]] = {}
    rows: list[dict[str, Any]] = []
    steps, choices = make_steps(options, problem), choices_of_auto(options, problem)
    # The program of `auto` is that of another row: measured twice, it would differ by noise.
    same = {
        "auto" + suffix: choice.strategy + suffix
        for suffix, choice in choices.items()
        if choice.strategy in options.strategies
    }
    for name, step in steps.items():
        if name in same:
            continue
        start = time.perf_counter()
        compiled = jax.jit(step).lower(*arguments).compile()
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis().temp_size_in_bytes
        rows.append({"step": name, "base": "ordinary", "compile_seconds": seconds})
        rows[-1] |= {"temporary_bytes": memory, "seconds": []}
        runs[name] = functools.partial(_run, compiled, arguments)
    with make_torch_steps(options, problem) as torch_steps:
        for name, step in torch_steps.items():
            rows.append({"step": name, "base": "torch ordinary", "seconds": []})
            runs[name] = step
        seconds_of = time_in_turns(runs, options.repeats) if options.repeats else {}
    by_name = {row["step"]: row for row in rows}
    for row in rows:
        base = by_name[row["base"]]
        if seconds_of:
            row["seconds"] = seconds_of[row["step"]]
            row["time_ratio"] = median_ratio(row["seconds"], seconds_of[row["base"]])
            row["spread"] = spread_of(row["seconds"])
        if "temporary_bytes" in row:
            row["memory_ratio"] = row["temporary_bytes"] / base["temporary_bytes"]
    by_name |= {name: by_name[other] | {"step": name} for name, other in same.items()}
    for suffix, choice in choices.items():
        compared = compare_auto(by_name, choice, suffix)
        if compared is not None:
            by_name["auto" + suffix]["beside_best"] = dataclasses.asdict(compared)
    order = [*steps, *(name for name in by_name if name not in steps)]
    return [by_name[name] for name in order]


def _run(compiled: Callable, arguments: tuple) -> None:
    jax.block_until_ready(compiled(*arguments))


def main(options: Options) -> None:
    """Measures, prints a table, writes the JSON file and the picture."""
    rows = measure(options)
    device = jax.devices()[0].device_kind
    table = Table(
        "step", "median ms", "spread", "time ratio", "temporary MB", "memory ratio", "compile s"
    )
    for row in rows:
        median = 1e3 * statistics.median(row["seconds"]) if row["seconds"] else None
        table.add_row(
            row["step"],
            _cell(median, ".0f"),
            _cell(row.get("spread"), ".0%"),
            _cell(row.get("time_ratio"), ".2f"),
            _cell(row["temporary_bytes"] / 1e6 if "temporary_bytes" in row else None, ".0f"),
            _cell(row.get("memory_ratio"), ".2f"),
            _cell(row.get("compile_seconds"), ".1f"),
        )
    Console(width=100).print(table)
    for row in rows:
        if "beside_best" in row:
            Console(width=100).print(f"{row['step']} {BesideBest(**row['beside_best'])}.")
    if any(row["base"] == "torch ordinary" for row in rows):
        Console().print("Ratios of steps of PyTorch are to PyTorch's ordinary step.")
    size = options.size
    title = (
        f"{options.model}, {options.tuning}, {size.num_layers} × {size.hidden_size}, "
        f"batch {size.batch_size} × {size.length} tokens, {device}: by the ordinary step"
    )
    write_results(
        options.output,
        options,
        rows,
        keys=("step",),
        ratios=("time_ratio", "memory_ratio"),
        title=title,
    )


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
