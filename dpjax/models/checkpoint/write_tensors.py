"""Safetensors, written one file at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dpjax.models.checkpoint.files import INDEX, WEIGHTS
from dpjax.models.checkpoint.tensors import Tensors

SHARD_BYTES = 5 * 10**9


def write_tensors(folder: Path, tensors: Tensors, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes the weights of a checkpoint; a file's tensors are read when it is written.

    Args:
        folder: the checkpoint.
        tensors: by name.
        shard_bytes: the most bytes of weights in one file; more go into several with an index.
    """
    from safetensors.numpy import save_file

    shards = list(_shards(tensors, shard_bytes))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS
        if len(shards) > 1:
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        read = {name: tensors[name].read() for name in names}
        save_file(read, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(tensor.num_bytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Tensors, shard_bytes: int) -> Iterator[list[str]]:
    """The names in their order, cut where a file would exceed `shard_bytes`."""
    shard: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.num_bytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += tensor.num_bytes
    yield shard
