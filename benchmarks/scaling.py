"""Records per second over 1 to n devices, with privacy beside the ordinary step.

    python -m benchmarks scaling --counts 1 2 4

Each device has the same number of records in every count (weak scaling): n devices, sharing the
records, at best do n times as many a second as one. The counts take turns. On a CPU there is one
device; a second process then makes as many as are asked for, and these share its cores, so that
their numbers show that it works and what it costs, not that it is faster. Writes a JSON file and a
picture beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import AxisType, Mesh
from rich.console import Console
from rich.table import Table

from benchmarks.finetune import Options as FinetuneOptions
from benchmarks.finetune import compiling_once, make_case, stepping
from benchmarks.results_file import write_results
from benchmarks.support.presets import Preset
from benchmarks.support.timing import median_ratio, spread_of, time_in_turns
from benchmarks.support.training import ORDINARY, Trainings
from dpjax import initialize_distributed
from dpjax.training import is_lead

_ROOT = Path(__file__).parents[1]
_FLAG = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, and on how many devices."""

    preset: Preset = "cpu"
    """Sizes for a kind of machine; default: this one. Other options change parts of it."""
    counts: tuple[int, ...] = (1, 2)
    """Numbers of devices; the first is what the others are compared with. None: all of them."""
    case: str = "gpt2-4x256:full:128:4"
    """MODEL:full|lora:LENGTH:RECORDS, of which each device has so many."""
    axis: Literal["data", "fsdp"] = "data"
    """What the devices share: data, the records alone; fsdp, the parameters too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 7
    output: Path = Path("benchmarks/results/scaling.json")

    def __post_init__(self) -> None:
        self.of_finetune(1)
        if min(self.counts, default=1) < 1 or self.repeats < 1:
            raise ValueError(
                f"counts and repeats must be at least 1, got {self.counts} and {self.repeats}"
            )

    def of_finetune(self, count: int) -> FinetuneOptions:
        """Returns the case with the records of all devices."""
        *parts, records = self.case.split(":")
        total = str(count * int(records)) if records.isdecimal() else records
        return FinetuneOptions(cases=(":".join((*parts, total)),), microbatches=1, dtype=self.dtype)


def _of_chips(num_devices: int, case: str) -> dict[str, Any]:
    counts = tuple(2**power for power in range(num_devices.bit_length()))
    return {"counts": counts, "case": case, "dtype": "bfloat16"}


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"case": "gpt2-1x32:full:16:2", "repeats": 2},
    # Forced devices share cores: their times scatter more than those of one.
    "cpu": {"repeats": 21},
    "h200": _of_chips(1, "gpt2:full:256:32"),
    "v5e-4": _of_chips(4, "gpt2:full:256:16"),
    "v5p-8": _of_chips(8, "llama-3.2-1b:full:512:4") | {"axis": "fsdp"},
    "v6e-8": _of_chips(8, "gpt2:full:256:32"),
    # All hosts share each step: a part of the devices would leave some hosts without any.
    "pod": _of_chips(1, "gpt2:full:256:16") | {"counts": ()},
}


def measure(options: Options) -> list[dict[str, Any]]:
    """Returns a row for each count and kind of step; there are devices enough."""
    runs, sizes = {}, {}
    for count in options.counts:
        of_count = options.of_finetune(count)
        case = make_case(of_count, of_count.cases[0])
        trainings = Trainings(case, ("auto",), options.repeats + 2, _mesh(options.axis, count))
        for kind in trainings.kinds:
            runs[count, kind] = stepping(trainings.start(kind))
            sizes[count, kind] = case.batch_size
    for run in runs.values():
        run()
    seconds = time_in_turns(runs, options.repeats)
    rows = []
    first = options.counts[0]
    for (count, kind), each in seconds.items():
        # Records are in proportion to devices: with the same efficiency the time is the same.
        efficiency = 1 / median_ratio(each, seconds[first, kind])
        rows.append(
            {
                "devices": count,
                "step": kind,
                "seconds": each,
                "spread": spread_of(each),
                "records_per_second": sizes[count, kind] / statistics.median(each),
                "time_ratio": median_ratio(each, seconds[count, ORDINARY]),
                "efficiency_ratio": efficiency,
            }
        )
    return rows


def _mesh(axis: str, count: int) -> Mesh | None:
    if count == 1:
        return None
    shape = {"data": 1, "fsdp": 1, "tensor": 1} | {axis: count}
    devices = jax.devices()[:count]
    return jax.make_mesh(
        tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def _measure_on_forced_devices(options: Options) -> list[dict[str, Any]]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}={max(options.counts)}"
    fields = dataclasses.asdict(options) | {"output": str(options.output)}
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", json.dumps(fields)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    rows: list[dict[str, Any]] = json.loads(child.stdout.splitlines()[-1])
    return rows


def main(options: Options) -> int | None:
    """Measures, prints a table, writes the JSON file and the picture."""
    if options.preset == "pod":
        initialize_distributed()
    options = dataclasses.replace(options, counts=options.counts or (jax.device_count(),))
    is_cpu = jax.default_backend() == "cpu"
    has_enough = jax.device_count() >= max(options.counts)
    if not (has_enough or is_cpu):
        print(
            f"scaling: counts must be at most the {jax.device_count()} devices that there are, "
            f"got {max(options.counts)}",
            file=sys.stderr,
        )
        return 2
    if has_enough:
        with compiling_once():
            rows = measure(options)
    else:
        rows = _measure_on_forced_devices(options)
    if not is_lead():
        return None
    table = Table("devices", "step", "records/s", "spread", "by ordinary step", "efficiency")
    for row in rows:
        table.add_row(
            str(row["devices"]),
            row["step"],
            f"{row['records_per_second']:.1f}",
            f"{row['spread']:.0%}",
            f"{row['time_ratio']:.2f}",
            f"{row['efficiency_ratio']:.2f}",
        )
    console = Console(width=100)
    console.print(table)
    if is_cpu:
        cores = os.cpu_count()
        console.print(
            f"The devices are forced and share {cores} cores: an efficiency of 1 / devices is full"
            " use of them."
        )
    write_results(
        options.output,
        options,
        rows,
        keys=("devices", "step"),
        ratios=("time_ratio", "efficiency_ratio"),
        title=f"{options.case} a device, {jax.devices()[0].device_kind}",
    )
    return None


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    with compiling_once():
        print(json.dumps(measure(Options(**(given | lists)))))
