"""The memory of a step, from the sizes of its arrays and the compiled programs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from dpjax.basics.typing import PyTree


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device while a step is computed.

    Attributes:
        trained: of the parameters that are trained.
        frozen: of those that are not.
        optimizer: of the optimizer's state.
        sums: of the sums of clipped gradients.
        microbatch: of the records of one microbatch.
        add_workspace: what the program that clips and adds up holds beside its arguments.
        update_workspace: the same of the program with noise and optimizer.
        microbatch_size: records of a microbatch.
        noise: what correlated noise keeps of past steps.
        noise_workspace: what the program that makes it holds beside that, the step's noise too.

    Example:
        >>> memory = StepMemory(4, 100, 8, 4, 1, 1000, 10, microbatch_size=2)
        >>> memory.held, memory.peak
        (116, 1117)
    """

    trained: int
    frozen: int
    optimizer: int
    sums: int
    microbatch: int
    add_workspace: int
    update_workspace: int
    microbatch_size: int
    noise: int = 0
    noise_workspace: int = 0

    @property
    def held(self) -> int:
        """Bytes that are held from step to step."""
        return self.trained + self.frozen + self.optimizer + self.sums + self.noise

    @property
    def peak(self) -> int:
        """The most bytes that are held at once."""
        # The step's noise stays until the update is done.
        own = self.trained if self.noise else 0
        return self.held + max(
            self.microbatch + self.add_workspace, self.noise_workspace, self.update_workspace + own
        )

    def to_dict(self) -> dict[str, int]:
        """Returns all numbers, ready for JSON."""
        return dataclasses.asdict(self) | {"held": self.held, "peak": self.peak}


def bytes_of(tree: PyTree) -> int:
    """Counts the bytes of arrays or shapes: of those that are sharded, the part on one device.

    Example:
        >>> import numpy as np
        >>> bytes_of({"kernel": np.zeros((2, 3), np.float32)})
        24
    """
    return sum(_bytes_of_leaf(leaf) for leaf in jax.tree.leaves(tree))


def workspace_of(program: jax.stages.Compiled) -> int:
    """The bytes that a compiled program needs beside its arguments, as its compiler says.

    Raises:
        ValueError: the compiler of this backend does not say.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        raise ValueError(
            f"the compiler for {jax.default_backend()} does not tell what memory a program needs."
            " Give the microbatch size as a number."
        )
    # What is donated becomes output: it is counted once, as an argument.
    new_outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.temp_size_in_bytes + max(0, new_outputs))


def _bytes_of_leaf(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize
