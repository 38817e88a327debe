"""Records and tokens per second of fine-tuning, end to end, with privacy beside the ordinary step.

    python -m benchmarks finetune --cases gpt2-4x256:full:128:8 llama-4x256:lora:128:8

Language models of named shapes with random weights are trained on random tokens with Adam, by the
loop of `dpjax.finetune`: draws, data, clipping, noise, update, ε. Three kinds of steps take turns
in one process: the ordinary one, as it is written without dpjax; dpjax without privacy; and with
it, by each strategy. Ratios are to the ordinary step of the same turn.

Memory is what the device reports, where it does, and its peak rose with this step; else what the
compiler says. Model FLOP utilisation is shown where the peak of the device is known, in bfloat16.
Writes a JSON file and a picture beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_results
from benchmarks.support.devices import peak_bytes, peak_flops
from benchmarks.support.models import CONFIGS, Tuning, flops_per_token
from benchmarks.support.presets import Preset
from benchmarks.support.timing import median_ratio, spread_of, time_in_turns
from benchmarks.support.training import ORDINARY, Case, Trainings
from dpjax.basics.option_checks import check_choice
from dpjax.models import Loading
from dpjax.training import StepDone

_FORM = "MODEL:full|lora:LENGTH:MICROBATCH"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained."""

    preset: Preset = "cpu"
    """Sizes for a kind of machine; default: this one. Other options change parts of it."""
    cases: tuple[str, ...] = ("gpt2-4x256:full:128:8",)
    """MODEL:full|lora:LENGTH:MICROBATCH, such as gpt2:lora:512:16."""
    microbatches: int = 2
    """Of a step."""
    rank: int = 16
    """Of adapters, which are on all linear layers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations; with lora, of frozen parameters too."""
    attention: Literal["einsum", "cudnn"] = "einsum"
    rematerialise: bool = False
    scan_layers: bool = True
    vocab_chunk: int | Literal["auto"] | None = "auto"
    """Logits held at once, of every step; None: all; auto: as dpjax chooses."""
    strategies: tuple[str, ...] = ("auto",)
    repeats: int = 9
    """Turns of one step of each kind; at least 1."""
    output: Path = Path("benchmarks/results/finetune.json")

    def __post_init__(self) -> None:
        for case in self.cases:
            parse_case(case)
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")


_LARGE: dict[str, Any] = {"dtype": "bfloat16", "rematerialise": True}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"cases": ("gpt2-1x32:full:16:2", "llama-1x32:lora:16:2"), "rank": 2, "repeats": 2},
    "cpu": {
        "cases": (
            "gpt2-4x256:full:128:8",
            "gpt2-4x256:lora:128:8",
            "llama-4x256:lora:128:8",
        )
    },
    "h200": {
        "cases": (
            "gpt2:full:256:32",
            "gpt2:lora:256:32",
            "llama-3.2-1b:full:512:16",
            "llama-3.2-1b:lora:512:16",
            "qwen2.5-7b:lora:512:8",
        ),
        "dtype": "bfloat16",
    },
    "v5e-4": _LARGE | {"cases": ("gpt2:full:256:32", "llama-3.2-1b:lora:512:8")},
    "v5p-8": _LARGE
    | {"cases": ("gpt2:full:256:64", "llama-3.2-1b:full:512:16", "llama-3-8b:lora:512:16")},
    "v6e-8": _LARGE | {"cases": ("gpt2:full:256:64", "llama-3.2-1b:lora:512:16")},
}


def parse_case(text: str) -> tuple[str, Tuning, int, int]:
    """Reads MODEL:full|lora:LENGTH:MICROBATCH.

    Raises:
        ValueError: there is no such model or tuning, or a number is not positive.
    """
    parts = text.split(":")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts[2:]):
        raise ValueError(f"a case is {_FORM}, such as gpt2:lora:512:16, got {text!r}")
    check_choice("model", parts[0], tuple(CONFIGS))
    check_choice("tuning", parts[1], ("full", "lora"))
    return parts[0], "full" if parts[1] == "full" else "lora", int(parts[2]), int(parts[3])


def make_case(options: Options, text: str) -> Case:
    """Returns what is trained in a case of the options."""
    model, tuning, length, microbatch_size = parse_case(text)
    loading = Loading(
        param_dtype=options.dtype if tuning == "lora" else "float32",
        dtype=options.dtype,
        attention=options.attention,
        scan_layers=options.scan_layers,
        rematerialise=options.rematerialise,
    )
    return Case(
        model=model,
        tuning=tuning,
        length=length,
        microbatch_size=microbatch_size,
        batch_size=options.microbatches * microbatch_size,
        rank=options.rank,
        loading=loading,
        vocab_chunk=options.vocab_chunk,
    )


def measure(options: Options, text: str) -> list[dict[str, Any]]:
    """Returns one row for each kind of step of a case."""
    case = make_case(options, text)
    # Two steps come before those that are timed: one that compiles, and one that warms up.
    trainings = Trainings(case, options.strategies, options.repeats + 2)
    compiled = {kind: trainings.compiled_peak(kind) for kind in trainings.kinds}
    memory = {kind: (peak, "compiler") for kind, peak in compiled.items()} | _risen(
        trainings, compiled
    )
    runs = {kind: stepping(trainings.start(kind)) for kind in trainings.kinds}
    first_seconds = {}
    for kind, run in runs.items():
        start = time.perf_counter()
        run()
        first_seconds[kind] = time.perf_counter() - start
    seconds = time_in_turns(runs, options.repeats)
    tokens = case.batch_size * case.length
    operations = tokens * flops_per_token(
        case.model, trainings.split, tuning=case.tuning, length=case.length
    )
    peak = peak_flops(jax.devices()[0].device_kind) if options.dtype == "bfloat16" else None
    rows = []
    for kind, each in seconds.items():
        median = statistics.median(each)
        row = {
            "case": text,
            "step": kind,
            "vocab_chunk": trainings.vocab_chunk,
            "seconds": each,
            "spread": spread_of(each),
            "records_per_second": case.batch_size / median,
            "tokens_per_second": tokens / median,
            "time_ratio": median_ratio(each, seconds[ORDINARY]),
            "first_step_seconds": first_seconds[kind],
            "compiled_peak_bytes": compiled[kind],
            "peak_bytes": memory[kind][0],
            "peak_bytes_by": memory[kind][1],
            # By the compiler, which tells it of every step alike.
            "memory_ratio": compiled[kind] / compiled[ORDINARY],
            "utilisation": None if peak is None else operations / median / peak,
        }
        rows.append(row)
    return rows


def _risen(trainings: Trainings, compiled: dict[str, int]) -> dict[str, tuple[int, str]]:
    """Returns the device's peak of the kinds of steps that raised it; the smallest come first."""
    risen = {}
    for kind in sorted(compiled, key=lambda kind: compiled[kind]):
        before = peak_bytes()
        if before is None:
            return {}
        one = trainings.start(kind)
        jax.block_until_ready(next(one).params)
        after = peak_bytes()
        if after is not None and after > before:
            risen[kind] = (after, "device")
        del one
    return risen


def stepping(steps: Iterator[StepDone]) -> Callable[[], object]:
    """Returns what does one step and waits for it."""
    return lambda: jax.block_until_ready(next(steps).params)


@contextlib.contextmanager
def compiling_once() -> Iterator[None]:
    """Keeps what is compiled on disk: memory and steps ask for the same programs."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "jax_compilation_cache_dir": folder,
            "jax_persistent_cache_min_compile_time_secs": 0,
        }
        before = {name: getattr(jax.config, name) for name in settings}
        for name, value in settings.items():
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)


def main(options: Options) -> None:
    """Measures, prints a table, writes the JSON file and the picture."""
    with compiling_once():
        rows = [row for case in options.cases for row in measure(options, case)]
    table = Table(
        "case", "step", "records/s", "tokens/s", "spread", "time ratio", "peak GB", "by", "ratio"
    )
    has_utilisation = any(row["utilisation"] is not None for row in rows)
    if has_utilisation:
        table.add_column("MFU")
    for row in rows:
        table.add_row(
            row["case"],
            row["step"],
            f"{row['records_per_second']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['spread']:.0%}",
            f"{row['time_ratio']:.2f}",
            f"{row['peak_bytes'] / 1e9:.3f}",
            row["peak_bytes_by"],
            f"{row['memory_ratio']:.2f}",
            *([f"{row['utilisation']:.1%}"] if has_utilisation else []),
        )
    Console(width=130).print(table)
    device = jax.devices()[0].device_kind
    write_results(
        options.output,
        options,
        rows,
        keys=("case", "step"),
        ratios=("time_ratio", "memory_ratio"),
        title=f"fine-tuning, {options.dtype}, {device}: by the ordinary step",
    )
