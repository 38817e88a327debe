"""What a run has shown of each step: a step that is done again may not show anything else.

It has the noise that it had. Shown with other roundings, as other devices may have them, the
difference of both would have no noise at all. Nor may later steps follow from other roundings.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.training.files.metrics_log import MetricsLog, read_rows
from dpjax.training.stopped import RunStopped

# Odd, so that no single change of bits is lost.
_WEIGHT = 0x9E3779B1


class ShownSteps:
    """The fingerprints of the parameters after each step that somebody may have seen.

    Args:
        path: of the file that they are kept in; secret, like the state.

    Example:
        >>> with ShownSteps(Path("shown.jsonl")) as shown:
        ...     shown.note(1, fingerprint({"w": jnp.ones(3)}))
        >>> with ShownSteps(Path("shown.jsonl")) as shown:
        ...     shown.note(1, fingerprint({"w": jnp.ones(3)}))
    """

    def __init__(self, path: Path) -> None:
        # All rows: what was shown stays shown, whatever state the run goes on from.
        self._log = MetricsLog(path, keep_steps=sys.maxsize)
        self._bits = {row["step"]: row["bits"] for row in self._log.rows}

    def note(self, step: int, bits: jax.Array | np.ndarray) -> None:
        """Notes what is about to be shown.

        Args:
            step: how many steps are done.
            bits: the `fingerprint` of the parameters after it.

        Raises:
            RunStopped: something else was shown after this step.
            OSError: for instance because the disk is full.
        """
        now = np.asarray(bits).tolist()
        if step not in self._bits:
            self._log.append({"step": step, "bits": now})
            self._bits[step] = now
        elif self._bits[step] != now:
            raise RunStopped(
                f"step {step} was shown before, and comes out with other roundings here, under the "
                "same noise: what differs would be shown without any. Resume where the run was "
                "then: the same number and kind of devices, processes and CPU cores. Or start "
                "afresh with overwrite=True or in a new folder"
            )

    def __enter__(self) -> ShownSteps:
        return self

    def __exit__(self, *exception: object) -> None:
        self._log.__exit__(*exception)


def last_shown(path: Path) -> int:
    """Returns the last step that the file of a `ShownSteps` has; 0 if none."""
    return max((row["step"] for row in read_rows(path)), default=0)


def fingerprint(params: PyTree) -> jax.Array | np.ndarray:
    """Returns (2,) uint32 that depend on each bit of the parameters, however they are spread.

    Sums modulo 2^32 are the same in any order. Two different sets of parameters agree by chance
    with a probability of about 2^-64; nobody chooses them to.

    Args:
        params: pytree of floating point arrays.
    """
    leaves = jax.tree.leaves(params)
    if all(_is_of_host(leaf) for leaf in leaves):
        # NumPy takes a sixth of the processor time that XLA takes for sums of integers on CPUs.
        return _combine([_sums_on_host(leaf) for leaf in leaves], np.zeros(2, np.uint32))
    return _on_devices(leaves)


@jax.jit
def _on_devices(leaves: list[Any]) -> jax.Array:
    return _combine([_sums(jnp, _columns(leaf)) for leaf in leaves], jnp.zeros(2, jnp.uint32))


def _combine(sums: list[Any], total: Any) -> Any:
    for of_leaf in sums:
        total = total * np.uint32(_WEIGHT) + of_leaf
    return total


def _sums(xp: Any, columns: Any) -> Any:
    """Two sums over columns: one alone would be linear in the bits."""
    place = xp.arange(len(columns), dtype=xp.uint32)
    first = columns * (2 * place + 1)
    second = (columns ^ (columns >> 15)) * (place * np.uint32(_WEIGHT) | 1)
    return xp.stack([xp.sum(first, dtype=xp.uint32), xp.sum(second, dtype=xp.uint32)])


def _columns(leaf: Any) -> jax.Array:
    """Sums over rows, each with an odd weight of its own, of the bits of a leaf."""
    bits = jax.lax.bitcast_convert_type(leaf, _word(leaf)).astype(jnp.uint32)
    # Not flattened: an array that is spread would be gathered.
    index = jnp.zeros(bits.shape[:-1], jnp.uint32)
    for axis in range(bits.ndim - 1):
        stride = math.prod(bits.shape[axis + 1 : -1]) % 2**32
        index += jax.lax.broadcasted_iota(jnp.uint32, index.shape, axis) * jnp.uint32(stride)
    weighted = bits * (2 * index + 1)[..., None] if bits.ndim else bits[None]
    return jnp.sum(weighted, axis=tuple(range(weighted.ndim - 1)), dtype=jnp.uint32)


def _sums_on_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """The same as of `_columns`."""
    word = np.dtype(_word(leaf))
    if isinstance(leaf, jax.Array):
        # NumPy's types do not have all of JAX's. A view that goes with this function: one that
        # stays, as that of `np.asarray` does, would keep the buffer from being donated.
        known = leaf if leaf.dtype.kind == "f" else jax.lax.bitcast_convert_type(leaf, word)
        leaf = np.from_dlpack(known.block_until_ready())  # type: ignore[arg-type]
    parts = leaf.dtype.itemsize // word.itemsize
    bits = np.ascontiguousarray(leaf).view(word)
    bits = bits.reshape(leaf.shape if parts == 1 else (*leaf.shape, parts))
    rows = bits.reshape(math.prod(bits.shape[:-1]), bits.shape[-1] if bits.ndim else 1)
    weights = 2 * np.arange(len(rows), dtype=np.uint32) + 1
    return _sums(np, np.einsum("i,ij->j", weights, rows.astype(np.uint32, copy=False)))


def _is_of_host(leaf: jax.Array | np.ndarray) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    devices = leaf.devices()
    return len(devices) == 1 and all(device.platform == "cpu" for device in devices)


def _word(leaf: Any) -> Any:
    return {1: np.uint8, 2: np.uint16}.get(leaf.dtype.itemsize, np.uint32)
