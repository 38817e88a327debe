"""What `fit` finds by the memory of the device: microbatch_size="auto", and that memory itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
from dpjax_accounting import BandedDPSGD, Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize import (
    BandedStrategy,
    ClippingRule,
    NoiseStrategy,
    PoissonSampler,
    RunKey,
    memory_of_default_device,
)
from dpjax.training.devices.lead import from_lead
from dpjax.training.fitting.records import Records, count_records, find_lengths
from dpjax.training.fitting.stored.directory import FitDirectory, FitState
from dpjax.training.fitting.stored.fingerprints import first_record
from dpjax.training.fitting.stored.identity import read
from dpjax.training.memory.limit import memory_limit
from dpjax.training.memory.microbatch_size import largest_microbatch
from dpjax.training.memory.step_programs import StepPrograms
from dpjax.training.steps import NonPrivateTraining, PrivateTraining, TrainingSteps

if TYPE_CHECKING:
    import optax

# The last microbatch of a step is filled up with rows that do not count: on average half of one.
_LARGEST_SHARE = 4
_OPTION = "microbatch_size"
_ADVICE = (
    "Make records smaller, compute the loss in pieces (jax.checkpoint), or train fewer parameters "
    "(frozen)."
)
MicrobatchSize = int | Literal["auto"]


def check_microbatch_size(size: Any) -> None:
    """Raises ValueError unless it is a number of records from 1, or "auto"."""
    is_number = isinstance(size, int) and not isinstance(size, bool)
    if not is_number and size != "auto":
        raise ValueError(f'{_OPTION} must be a whole number or "auto", got {size!r}')
    if is_number and size < 1:
        raise ValueError(f"{_OPTION} must be at least 1, got {size}")


def stored_size(output_dir: str | Path | None, *, resume: bool) -> int | None:
    """Returns the size that an interrupted run was started with; None where nothing is resumed.

    Raises:
        FileNotFoundError, ValueError: its identity is missing or damaged.
    """
    if output_dir is None or not resume:
        return None
    directory = FitDirectory(output_dir)

    def read_size() -> int | None:
        if directory.state() is not FitState.UNFINISHED:
            return None
        size = read(directory.private.identity).get(_OPTION)
        return size if isinstance(size, int) else None

    return from_lead(read_size)


def planned_memory(given: int | None, stored: Mapping[str, Any] | None) -> int:
    """Returns the bytes of a device that a run is planned with.

    Without a given number those of its start, where it resumes: another number may mean another
    strategy, and that other roundings. Process 0 says for all processes; every one must call it.

    Args:
        given: what `fit` was given.
        stored: what the run was started with, if it resumes.
    """

    def find() -> int:
        if given is not None:
            return given
        at_start = None if stored is None else stored.get("device_memory")
        return at_start if isinstance(at_start, int) else memory_of_default_device()

    return from_lead(find)


def find_size(
    loss: Callable[..., jax.Array],
    params: PyTree,
    data: PyTree | Records,
    *,
    mechanism: Mechanism | None,
    rule: ClippingRule | None,
    optimizer: optax.GradientTransformation,
    frozen: PyTree,
    strategy: str,
    device_memory: int | None,
    noise_strategy: NoiseStrategy | None,
    batch_size: float,
) -> int:
    """Compiles steps for shapes alone, and returns the largest size that fits and wastes little.

    It is a power of two, at most a quarter of the mean batch. Of several devices it is what fits on
    one that does all of the work.

    Args:
        loss: of one record, `(params, record, frozen) -> scalar`.
        params: to be trained.
        data: gives the shapes of a record.
        mechanism: what the accountant counts; None without privacy.
        rule: of clipping; None without privacy.
        optimizer: as `fit` takes it.
        frozen: what the loss reads beside the parameters.
        strategy: as `fit` takes it.
        device_memory: likewise.
        noise_strategy: likewise.
        batch_size: mean number of records in a batch.

    Raises:
        TypeError: data are neither arrays nor an object with `len` and `take`.
        ValueError: a single record does not fit, or the device does not tell.
    """
    if noise_strategy is None and isinstance(mechanism, BandedDPSGD):
        # Any with as many bands needs as much memory, and the best one takes a search.
        noise_strategy = BandedStrategy((1.0,) + (0.5,) * (mechanism.bands - 1))
    limit = memory_limit(_OPTION, device_memory)
    find_lengths(data)
    # No number is drawn from the key: it makes the programs alone.
    key = RunKey.from_os_entropy()
    steps: TrainingSteps
    if mechanism is None or rule is None:
        sampler = PoissonSampler(count_records(data), 1.0, key)
        steps = NonPrivateTraining(
            loss, optimizer, sampler, batch_size, device_memory=device_memory
        )
    else:
        steps = PrivateTraining(
            loss,
            optimizer,
            mechanism,
            rule,
            key,
            strategy=strategy,
            device_memory=device_memory,
            noise_strategy=noise_strategy,
        )
    params, frozen = _shapes(params), _shapes(frozen)
    record = first_record(data)

    def batch_of(size: int) -> PyTree:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), record
        )

    programs = StepPrograms(steps, params, jax.eval_shape(optimizer.init, params), frozen, batch_of)
    largest = max(1, int(batch_size) // _LARGEST_SHARE)
    chosen = largest_microbatch(programs.memory, limit, largest, option=_OPTION, advice=_ADVICE)
    return chosen.microbatch_size


def _shapes(tree: PyTree) -> PyTree:
    return jax.eval_shape(lambda leaves: leaves, tree)
