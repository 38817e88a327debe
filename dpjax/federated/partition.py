"""Simulated clients: records of one file dealt out to clients with different mixes of labels."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

# Seeds the public deal, beside the seed that is given.
_DEAL = 0x6465616C


def dirichlet_partition(
    labels: Sequence[Hashable], *, num_clients: int, alpha: float, seed: int = 0
) -> np.ndarray:
    """Deals records out to clients, each label in proportions from a Dirichlet distribution.

    For each label, proportions over clients are drawn from Dirichlet(α, ..., α), and each record of
    the label goes to a client by them (Yurochkin et al. 2019, "Bayesian Nonparametric Federated
    Learning of Neural Networks", arXiv:1905.12022, section 4). A small α gives clients of few
    labels and of very different sizes; as α grows, all become alike. A client may get no record.

    The deal is public randomness. Where a record goes depends on its own label, its place in the
    file and the seed, and on no other record.

    Args:
        labels: `(N,)`, of each record.
        num_clients: n, at least 2.
        alpha: α > 0.
        seed: another one deals anew, at least 0.

    Returns:
        `(N,)` int64, the client of each record, in `range(n)`.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> clients = dirichlet_partition(["good", "bad"] * 50, num_clients=5, alpha=0.5)
        >>> clients.shape, int(clients.min()) >= 0, int(clients.max()) < 5
        ((100,), True, True)
    """
    if num_clients < 2:
        raise ValueError(f"num_clients must be at least 2, got {num_clients}")
    if not (np.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    rows_of: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    places = np.random.default_rng((_DEAL, seed)).random(len(labels))
    clients = np.zeros(len(labels), np.int64)
    for label, rows in rows_of.items():
        # By its name: which other labels there are moves no record of this one.
        name = hashlib.blake2b(str(label).encode(), digest_size=8).digest()
        rng = np.random.default_rng((_DEAL, seed, int.from_bytes(name)))
        bounds = np.cumsum(rng.dirichlet(np.full(num_clients, alpha)))
        clients[rows] = np.searchsorted(bounds, places[rows], side="right")
    # The last bound may be a rounding below 1.
    return np.minimum(clients, num_clients - 1)


def even_partition(num_records: int, *, num_clients: int, seed: int = 0) -> np.ndarray:
    """Deals records out to clients at random, whatever they hold; each client gets as many, ±1.

    Args:
        num_records: N, at least `num_clients`.
        num_clients: n, at least 2.
        seed: another one deals anew, at least 0.

    Returns:
        `(N,)` int64, the client of each record.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> np.bincount(even_partition(10, num_clients=4)).tolist()
        [3, 3, 2, 2]
    """
    if not 2 <= num_clients <= num_records:
        raise ValueError(
            f"num_clients must be at least 2 and at most the {num_records} records, got "
            f"{num_clients}"
        )
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    dealt = np.arange(num_records) % num_clients
    return np.random.default_rng((_DEAL, seed)).permutation(dealt)
