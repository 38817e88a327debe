"""Several processes that train together: one run key, and agreement about what is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.privatize import RunKey
from dpjax.training.environment import versions_of_numerics


def shared_run_key(run_key: RunKey | None) -> RunKey:
    """Returns the run key of all processes: the one given, or a new one of process 0.

    A key that is given is compared by `check_agreement`. A new one is sent to the others over the
    network that gradients are exchanged on.
    """
    if jax.process_count() == 1 or run_key is not None:
        return RunKey.from_os_entropy() if run_key is None else run_key
    from jax.experimental import multihost_utils

    own = np.frombuffer(RunKey.from_os_entropy().secret, np.uint8)
    return RunKey(np.asarray(multihost_utils.broadcast_one_to_all(own)).astype(np.uint8).tobytes())


def check_agreement(parts: Mapping[str, Any]) -> None:
    """Compares what the processes were given; every process must call it.

    Args:
        parts: what must be the same everywhere, by name: text, numbers, or pytrees of arrays. The
            versions of packages and noise are compared too.

    Raises:
        ValueError: the processes disagree; the message names what about.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    compared = {**parts, "versions": versions_of_numerics()}
    own = np.stack([np.frombuffer(_digest(value), np.uint8) for value in compared.values()])
    everywhere = np.asarray(multihost_utils.process_allgather(own))
    agree = (everywhere == everywhere[:1]).all(axis=(0, 2))
    different = [name for name, same in zip(compared, agree, strict=True) if not same]
    if different:
        raise ValueError(
            f"the {jax.process_count()} processes of a run must be given the same, got different "
            f"{', '.join(different)}. Start all of them with the same program and files"
        )


def _digest(value: PyTree) -> bytes:
    """SHA-256 of a pytree: structure, shapes, formats and contents."""
    leaves, structure = jax.tree.flatten(value)
    digest = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, (np.ndarray, jax.Array)):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(array.tobytes())
        else:
            digest.update(json.dumps(leaf, default=repr).encode())
    return digest.digest()
