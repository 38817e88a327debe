"""Several benchmarks one after another, for the machine at hand: what `make bench` runs.

    python -m benchmarks suite
    python -m benchmarks suite --preset h200 --rehearse

Each runs in a process of its own and leaves its JSON file and picture in one folder. The list for a
CPU is made for 15 minutes on two cores. The one for a GPU is made for 10 on an H200: clipping
beside jax_privacy, fine-tuning in full and with LoRA up to 7 billion parameters, and einsum beside
the attention of cuDNN. A benchmark that fails does not keep the others from running; the exit
status is then 1.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.support.presets import Preset

_ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    preset: Preset = "cpu"
    """The list for a kind of machine; default: this one."""
    rehearse: bool = False
    """Run the list with tiny models, to see on a CPU that every command of it works."""
    output: Path = Path("runs/bench")
    """The folder of the JSON files and pictures."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A benchmark of the list.

    Attributes:
        name: of the benchmark.
        arguments: what is given to it, beside preset and output.
        has_preset: whether it has sizes for kinds of machines.
        file: name of its JSON file; None of a benchmark that leaves none.
        gpu_only: arguments that only a GPU takes.
    """

    name: str
    arguments: tuple[str, ...] = ()
    has_preset: bool = True
    file: str | None = None
    gpu_only: tuple[str, ...] = ()

    def command(self, options: Options) -> list[str]:
        """Returns the command that runs it."""
        preset = ["--preset", "tiny" if options.rehearse else options.preset]
        file = [] if self.file is None else ["--output", str(options.output / self.file)]
        return [
            *(sys.executable, "-m", "benchmarks", self.name),
            *(preset if self.has_preset else []),
            *self.arguments,
            *([] if options.rehearse else self.gpu_only),
            *file,
        ]


_CLIPPING = Entry("clipping", file="clipping.json")
_FINETUNE = Entry("finetune", file="finetune.json")
_SCALING = Entry("scaling", file="scaling.json")
_ON_TPU = (_CLIPPING, _FINETUNE, _SCALING)
PRESETS: dict[str, dict[str, object]] = {
    name: {} for name in ("tiny", "cpu", "h200", "v5e-4", "v5p-8", "v6e-8", "pod")
}
_LISTS: dict[str, tuple[Entry, ...]] = {
    "tiny": (_CLIPPING,),
    "cpu": (
        _CLIPPING,
        _FINETUNE,
        _SCALING,
        Entry(
            "compile_time",
            ("--num-layers", "4", "--repeats", "7"),
            has_preset=False,
            file="compile_time.json",
        ),
        Entry(
            "loading",
            ("--num-layers", "4", "--vocab-size", "32000"),
            has_preset=False,
            file="loading.json",
        ),
        Entry("accounting", ("--tables", "sampling", "answers"), has_preset=False),
        Entry(
            "audit",
            ("--tables", "validity", "--repeats", "100", "--sizes", "1000"),
            has_preset=False,
            file="audit.json",
        ),
        Entry(
            "utility",
            ("--epsilons", "3", "--num-keys", "1"),
            has_preset=False,
            file="utility.json",
        ),
    ),
    "h200": (
        _CLIPPING,
        _FINETUNE,
        Entry(
            "finetune",
            file="finetune_cudnn.json",
            gpu_only=(
                *("--cases", "gpt2:full:256:32", "qwen2.5-7b:lora:512:8"),
                *("--attention", "cudnn"),
            ),
        ),
    ),
    **dict.fromkeys(("v5e-4", "v5p-8", "v6e-8"), _ON_TPU),
    # Of the others, every host would measure a device of its own.
    "pod": (_SCALING,),
}


def main(options: Options) -> int:
    """Runs the list; returns 1 if a benchmark failed."""
    console = Console()
    failed = []
    for entry in _LISTS[options.preset]:
        command = entry.command(options)
        shown = " ".join(["python", *command[1:]])
        console.rule(shown)
        start = time.monotonic()
        status = subprocess.run(command, cwd=_ROOT).returncode
        console.print(f"{time.monotonic() - start:.0f} s, status {status}")
        if status:
            failed.append(shown)
    for shown in failed:
        console.print(f"failed: {shown}")
    return 1 if failed else 0
