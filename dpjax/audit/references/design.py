"""Which shadow trains on which record, and the secret of each shadow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpjax.privatize import RunKey


def balanced_membership(
    num_shadows: int, num_records: int, *, run_key: RunKey
) -> NDArray[np.bool_]:
    """Draws which shadows train on which records: every record in exactly half of the shadows.

    Each record's half is drawn uniformly and independently of the other records' (Carlini et al.
    2022, arXiv:2112.03570, train on random halves of the records too). Every
    record then has as many scores on either side, and shadows train on about n/2 records each.

    Args:
        num_shadows: k, even, at least 2.
        num_records: n, at least 1.
        run_key: of the attack, never that of the attacked run. The same key gives the same design.

    Returns:
        (k, n) bool, True where a shadow trains on a record.

    Raises:
        TypeError: `run_key` is not a RunKey.
        ValueError: `num_shadows` is odd or below 2, or there is no record.

    Example:
        >>> membership = balanced_membership(4, 1000, run_key=RunKey.from_os_entropy())
        >>> membership.shape, set(membership.sum(axis=0).tolist())
        ((4, 1000), {2})
    """
    if num_shadows < 2 or num_shadows % 2:
        raise ValueError(
            f"num_shadows must be even and at least 2, got {num_shadows}. Half of them train on "
            "each record"
        )
    if num_records < 1:
        raise ValueError(f"num_records must be at least 1, got {num_records}")
    half = np.arange(num_shadows) < num_shadows // 2
    rng = _derive(run_key, "shadows").sampling_rng(0)
    return rng.permuted(np.broadcast_to(half[:, None], (num_shadows, num_records)), axis=0)


def shadow_key(run_key: RunKey, shadow: int) -> RunKey:
    """Derives the run key of one shadow, which draws its adapters, its batches and its noise.

    Args:
        run_key: of the attack.
        shadow: its number, from 0.

    Raises:
        TypeError: `run_key` is not a RunKey.

    Example:
        >>> run_key = RunKey.from_os_entropy()
        >>> shadow_key(run_key, 0) == shadow_key(run_key, 1), shadow_key(run_key, 0) == run_key
        (False, False)
    """
    return _derive(run_key, f"shadow/{shadow}")


def _derive(run_key: RunKey, name: str) -> RunKey:
    if not isinstance(run_key, RunKey):
        raise TypeError(f"run_key must be a RunKey, got {type(run_key).__name__}")
    return run_key.for_instrument(name)
