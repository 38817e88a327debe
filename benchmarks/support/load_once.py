"""Loads a checkpoint once and prints what that took as JSON; `loading` runs it as a process.

python -m benchmarks.support.load_once FOLDER unrolled|scanned
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from pathlib import Path

import jax
from flax import nnx

from dpjax.models import CausalLM, Loading, load_causal_lm, read_config


def load_once(folder: Path, layers: str) -> dict[str, float]:
    """Seconds, and resident bytes: before, at the peak, and of the parameters."""
    _start_everything(folder)
    before = _status("VmRSS")
    loading = Loading(param_dtype="bfloat16", dtype="bfloat16", scan_layers=layers == "scanned")
    start = time.perf_counter()
    model = load_causal_lm(folder, loading=loading)
    parameters = jax.block_until_ready(_parameters(model))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "bytes_before": before,
        "bytes_peak": _status("VmHWM"),
        "bytes_after": _status("VmRSS"),
        "parameter_bytes": sum(leaf.nbytes for leaf in parameters),
    }


def _start_everything(folder: Path) -> None:
    """Imports what loading imports, starts the device, and forgets the peak up to now."""
    read_config(folder)
    jax.block_until_ready(jax.device_put(0.0))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _parameters(model: CausalLM) -> list[jax.Array]:
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def _status(name: str) -> int:
    """VmRSS (resident now) or VmHWM (its peak) of this process, in bytes; mapped files count."""
    path = Path("/proc/self/status")
    if path.exists():
        [line] = [line for line in path.read_text().splitlines() if line.startswith(f"{name}:")]
        return 1024 * int(line.split()[1])
    # Elsewhere only the peak is known, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    print(json.dumps(load_once(Path(sys.argv[1]), sys.argv[2])))
