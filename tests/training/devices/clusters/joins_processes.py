"""Run as a script in each of two processes: joins them, and prints what it found as JSON."""

import io
import json
import os
import signal

import jax
import jax.numpy as jnp
from jax._src import xla_bridge
from jax.experimental import multihost_utils
from rich.console import Console

import dpjax


def main():
    signals = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    found = {"device at import": xla_bridge.backends_are_initialized()}
    console = Console(file=io.StringIO(), width=200)
    dpjax.initialize_distributed(console=console)
    dpjax.initialize_distributed(console=console)
    os.kill(os.getpid(), signal.SIGTERM)
    numbers = multihost_utils.process_allgather(jnp.float32(jax.process_index() + 1))
    found |= {
        "said": console.file.getvalue(),
        "number": jax.process_index(),
        "count": jax.process_count(),
        "sum": float(numbers.sum()),
        "signals": len(signals),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
