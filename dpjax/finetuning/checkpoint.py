"""The state from which an interrupted run goes on, through orbax."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax

from dpjax.finetuning.run_directory import write_json

PyTree = Any


def save(folder: Path, step: int, trainable: PyTree, optimizer_state: Any) -> None:
    """Stores the state after `step` steps; the one before is deleted once this one is complete."""
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    target = folder / f"step_{step}"
    if target.exists():
        return
    with ocp.StandardCheckpointer() as checkpointer:
        # Leaves as a list: optimizer states are tuples of tuples, whose types orbax would not keep.
        checkpointer.save(target, jax.tree.leaves((trainable, optimizer_state)))
        checkpointer.wait_until_finished()
    write_json(folder / "latest.json", {"step": step})
    for other in folder.glob("step_*"):
        if other != target:
            shutil.rmtree(other)


def restore(folder: Path, trainable: PyTree, optimizer_state: Any) -> tuple[int, PyTree, Any]:
    """The stored `(step, trainable, optimizer_state)`, or step 0 and what was given if none is."""
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    latest = folder / "latest.json"
    if not latest.exists():
        return 0, trainable, optimizer_state
    step = json.loads(latest.read_text())["step"]
    leaves, structure = jax.tree.flatten((trainable, optimizer_state))
    with ocp.StandardCheckpointer() as checkpointer:
        leaves = checkpointer.restore(folder / f"step_{step}", leaves)
    return step, *jax.tree.unflatten(structure, leaves)
