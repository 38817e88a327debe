"""The programs of a step for several microbatch sizes, compiled for shapes alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.training.memory.step_memory import StepMemory, bytes_of, workspace_of
from dpjax.training.steps import LoweredStep, TrainingSteps


class StepPrograms:
    """The real programs of a step: clipping, noise and optimizer. Each is compiled once.

    Args:
        steps: how a step is computed.
        params: arrays or shapes (`jax.ShapeDtypeStruct`) of what is trained; so are the others.
        state: of the optimizer's state.
        frozen: of what the loss reads beside them.
        batch_of: from a microbatch size to the shapes of its records, or units, with a leading
            axis of them.
    """

    def __init__(
        self,
        steps: TrainingSteps,
        params: PyTree,
        state: PyTree,
        frozen: PyTree,
        batch_of: Callable[[int], PyTree],
    ) -> None:
        self._steps, self._params, self._state, self._frozen = steps, params, state, frozen
        self._batch_of = batch_of
        self._adds: dict[int, jax.stages.Compiled] = {}
        self._update: jax.stages.Compiled | None = None
        self._noise: jax.stages.Compiled | None = None

    def memory(self, microbatch_size: int) -> StepMemory:
        """Returns the memory of a step with microbatches of a size.

        Raises:
            ValueError: the compiler of this backend does not tell.
        """
        add, update = self._compiled(microbatch_size)
        sums, _ = jax.eval_shape(
            lambda params, state: self._steps.begin(params, 0, state), self._params, self._state
        )
        return StepMemory(
            trained=bytes_of(self._params),
            frozen=bytes_of(self._frozen),
            optimizer=bytes_of(self._state),
            sums=bytes_of(sums),
            microbatch=bytes_of(self._batch_of(microbatch_size)),
            add_workspace=workspace_of(add),
            update_workspace=workspace_of(update),
            microbatch_size=microbatch_size,
            **_of_noise(self._noise),
        )

    def measure_seconds(self, microbatch_size: int) -> tuple[float, float]:
        """Runs one microbatch and one update on zeros, and returns the seconds of each."""
        add, update = self._compiled(microbatch_size)
        noise = 0.0 if self._noise is None else _seconds_of(self._noise)
        return _seconds_of(add), noise + _seconds_of(update)

    def _compiled(self, size: int) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
        if size not in self._adds or self._update is None:
            lowered = self._lower(size)
            self._adds[size] = lowered.add.compile()
            if self._update is None:
                self._update = lowered.update.compile()
                self._noise = None if lowered.noise is None else lowered.noise.compile()
        return self._adds[size], self._update

    def _lower(self, size: int) -> LoweredStep:
        batch = self._batch_of(size)
        mask = jax.ShapeDtypeStruct(jax.tree.leaves(batch)[0].shape[:1], jnp.bool_)
        return self._steps.lower(self._params, self._state, batch, mask, self._frozen)


def _of_noise(program: jax.stages.Compiled | None) -> dict[str, int]:
    """What the program of correlated noise holds from step to step, and beside it."""
    if program is None:
        return {}
    (state, _), _ = program.args_info
    held = sum(math.prod(info.shape) * info.dtype.itemsize for info in jax.tree.leaves(state))
    return {"noise": held, "noise_workspace": workspace_of(program)}


def _seconds_of(program: jax.stages.Compiled) -> float:
    """How long the second call of a program takes."""
    seconds = 0.0
    for _ in range(2):
        # Made for each call: some of the buffers are taken over.
        args, _ = jax.block_until_ready(jax.tree.map(_filled, program.args_info))
        start = time.monotonic()
        jax.block_until_ready(program(*args))
        seconds = time.monotonic() - start
    return seconds


def _filled(info: Any) -> jax.Array:
    """Zeros, and true for flags: every token and every record counts."""
    if jnp.issubdtype(info.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0, dtype=info.dtype), info.shape)
    return jnp.full(info.shape, np.array(info.dtype == jnp.bool_, info.dtype))
