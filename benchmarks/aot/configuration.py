"""From the options of `tpu_aot` to the steps that it compiles."""

from __future__ import annotations

import math
from typing import Protocol

from benchmarks.aot.steps import Steps, make_steps
from benchmarks.aot.topologies import check_fits, make_mesh, parse_topology
from benchmarks.support.models import CONFIGS, Tuning, abstract_split
from dpjax.basics.option_checks import check_choice
from dpjax.models import Loading, choose_vocab_chunk
from dpjax.privatize import device_memory
from dpjax.training import parse_mesh


class Configuration(Protocol):
    """The options that say what the steps are."""

    model: str
    topology: str
    mesh: str | None
    tuning: Tuning
    rank: int
    batch_size: int
    length: int
    dtype: str
    rematerialise: bool
    scan_layers: bool
    vocab_chunk: int | str | None


def make_configured_steps(options: Configuration) -> tuple[Steps, int | None, int]:
    """Makes the steps for the topology.

    Returns them, the tokens whose logits are held at once, and the number of devices.

    Everything that can be wrong with the options is found before anything is traced.

    Raises:
        ValueError: the model, topology or mesh is unknown, or they do not fit each other.
    """
    check_choice("model", options.model, tuple(CONFIGS))
    _, num_devices = parse_topology(options.topology)
    sizes = parse_mesh(options.mesh or f"data={num_devices}")
    check_fits(sizes, options.topology)
    _check_batch_size(options.batch_size, sizes)
    _check_length(options)
    mesh = make_mesh(options.topology, sizes)
    loading = Loading(
        param_dtype="float32" if options.tuning == "full" else options.dtype,
        dtype=options.dtype,
        scan_layers=options.scan_layers,
        rematerialise=options.rematerialise,
    )
    split = abstract_split(options.model, tuning=options.tuning, rank=options.rank, loading=loading)
    memory = device_memory(mesh.devices.flat[0])
    chunk = _vocab_chunk(options, sizes, memory)
    steps = make_steps(
        split,
        mesh,
        batch_size=options.batch_size,
        length=options.length,
        vocab_chunk=chunk,
        device_memory=memory,
    )
    return steps, chunk, num_devices


def _vocab_chunk(options: Configuration, sizes: dict[str, int], memory: int | None) -> int | None:
    """How many tokens' logits are held at once: as asked for, or as `finetune` chooses it."""
    if options.vocab_chunk is None:
        return None
    if options.vocab_chunk != "auto":
        return int(options.vocab_chunk)
    if memory is None:
        raise ValueError(
            f"how much memory a device of {options.topology} has is not known. Give vocab_chunk as "
            "a number, or None"
        )
    records = options.batch_size // (sizes["data"] * sizes["fsdp"])
    return choose_vocab_chunk(
        records * max(1, options.length - 1),
        CONFIGS[options.model]["vocab_size"],
        memory,
    )


def _check_batch_size(batch_size: int, sizes: dict[str, int]) -> None:
    sharing = math.prod(sizes[axis] for axis in ("data", "fsdp"))
    if batch_size % sharing:
        raise ValueError(
            f"batch_size must be a multiple of the {sharing} devices that share the records (data "
            f"× fsdp), got {batch_size}. Give {-(-batch_size // sharing) * sharing}"
        )


def _check_length(options: Configuration) -> None:
    config = CONFIGS[options.model]
    most = config.get("n_positions") or config["max_position_embeddings"]
    if options.length > most:
        raise ValueError(f"length must be at most {most} for {options.model}, got {options.length}")
