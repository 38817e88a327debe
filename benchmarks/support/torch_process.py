"""Steps of PyTorch in a process of their own, which does one when it is told to.

Both frameworks keep threads and memory: in one process each would slow the other down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from benchmarks.support.decoder import DecoderSize

_ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def torch_peer_steps(ids: np.ndarray, size: DecoderSize) -> Iterator[dict[str, Callable[[], None]]]:
    """Gives the ordinary step of PyTorch and those of Opacus and opake, if one is installed.

    Args:
        ids: the batch, `(B, T)`.
        size: of the decoder.
    """
    if not installed_peers():
        yield {}
        return
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name, "ids.npy"), ids)
        Path(name, "size.json").write_text(json.dumps(dataclasses.asdict(size)))
        command = [sys.executable, "-m", "benchmarks.support.torch_process", name]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        assert child.stdin is not None and child.stdout is not None
        try:
            names = json.loads(_answer(child.stdout))
            yield {step: functools.partial(_do, step, child.stdin, child.stdout) for step in names}
        finally:
            child.stdin.close()
            child.wait()


def installed_peers() -> list[str]:
    """Returns which of opacus and opake are installed."""
    if not importlib.util.find_spec("torch"):
        return []
    return [name for name in ("opacus", "opake") if importlib.util.find_spec(name)]


def _do(step: str, commands: IO[str], answers: IO[str]) -> None:
    commands.write(f"{step}\n")
    commands.flush()
    _answer(answers)


def _answer(answers: IO[str]) -> str:
    line = answers.readline()
    if not line:
        raise RuntimeError("the process that runs PyTorch ended; its message is above")
    return line


def _serve(folder: Path) -> None:
    """Does the steps that are asked for, a line each, until there are no more."""
    import torch

    from benchmarks.support.torch_decoder import Decoder, ordinary_step

    size = DecoderSize(**json.loads((folder / "size.json").read_text()))
    batch = torch.tensor(np.load(folder / "ids.npy"), dtype=torch.long)

    def make() -> Decoder:
        torch.manual_seed(0)
        return Decoder(
            layers=size.num_layers,
            size=size.hidden_size,
            vocab=size.vocab_size,
            length=size.length,
            head_size=size.head_size,
        )

    steps = {"torch ordinary": ordinary_step(make(), batch)}
    installed = installed_peers()
    if "opacus" in installed:
        from benchmarks.support.opacus_steps import ghost_step, hooks_step

        steps |= {
            "Opacus hooks": hooks_step(make(), batch),
            "Opacus ghost": ghost_step(make(), batch),
        }
    if "opake" in installed:
        from benchmarks.support.opake_steps import opake_step

        steps["opake"] = opake_step(make(), batch)
    print(json.dumps(list(steps)), flush=True)
    for line in sys.stdin:
        steps[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
