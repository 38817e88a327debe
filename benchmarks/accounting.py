"""Prints the figures of docs/accounting, as Markdown tables.

    python -m benchmarks accounting                # all; `allocation` takes longest
    python -m benchmarks accounting --tables sampling

What other accountants answer, and the reference, were measured once: they are in
tests/accounting/engine/reference.json. Ours are computed now, without the cache on disk. Random
allocation needs the extra `allocation`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Literal, get_args

from dpjax_accounting import (
    DPSGD,
    DPSGDSchedule,
    FixedSizeDPSGD,
    FullBatch,
    Mechanism,
    NotSampled,
    RandomAllocationDPSGD,
    Segment,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
    best_guess_accuracy,
    compare,
    computed_afresh,
    gaussian_dp,
    posterior_belief,
    unamplified_epsilon,
)

_TESTS = pathlib.Path(__file__).parents[1] / "tests"
REFERENCE = _TESTS / "accounting" / "engine" / "reference.json"
_NUM_UNITS = 10**9
# SST-2, three epochs of expected batch size 1,024.
_RECORDS, _BATCH, _STEPS, _DELTA = 67_349, 1024, 198, 7.424e-6
# Batches per epoch, epochs, σ, δ, and whether PLD_accounting's own bounds, which did not end
# within eight minutes where they are left out, are computed too.
_ALLOCATIONS = (
    (100, 1, 0.5, 1e-6, True),
    (100, 1, 1.0, 1e-6, True),
    (66, 3, 0.6, 7.424e-6, True),
    (41, 10, 0.6, 8e-6, False),
    (41, 10, 1.0, 8e-6, False),
    (1000, 1, 50.0, 1e-5, False),
)
# q, σ, T, δ.
_PUBLISHED = (
    (0.01, 0.7, 120, 1e-5),
    (0.01, 0.35, 120, 1e-5),
    (0.0025, 1.3, 6000, 1e-5),
    (0.001, 1.0, 30_000, 1e-7),
    (0.1, 3.0, 512, 1e-6),
    (16384 / 50_000, 9.4, 2000, 1e-5),
    (16384 / 50_000, 40.0, 906, 1e-5),
    (0.01, 4.0, 10_000, 1e-5),
    (256 / 60_000, 1.1, 14_062, 1e-5),
)

TableName = Literal["others", "sampling", "allocation", "published", "answers", "memory"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is computed."""

    tables: tuple[TableName, ...] = get_args(TableName)


def poisson(q: float, noise: float, steps: int) -> DPSGD:
    """DP-SGD with a sampling probability instead of a number of units."""
    return DPSGD(
        num_units=_NUM_UNITS,
        expected_batch_size=q * _NUM_UNITS,
        noise_multiplier=noise,
        num_steps=steps,
    )


def others() -> None:
    """Beside other accountants, with the seconds that ours took on this machine."""
    _header(
        "q | T | σ | δ | reference | ours, PLD | ours, RDP | dp-accounting PLD"
        " | dp-accounting RDP | Opacus PRV | prv_accountant | seconds"
    )
    for row in json.loads(REFERENCE.read_text())["poisson"]:
        mechanism = poisson(row["q"], row["noise_multiplier"], row["steps"])
        begin = time.perf_counter()
        mechanism.epsilon(row["delta"])
        seconds = time.perf_counter() - begin
        ours = compare(mechanism, row["delta"])
        values = (row["reference"], ours.pld, ours.rdp)
        theirs = (row["pld"], row["rdp"], row["opacus_prv"], row["prv_estimate"])
        setting = f"{row['q']:.4g} | {row['steps']} | {row['noise_multiplier']:g}"
        cells = " | ".join(map(_cell, values + theirs))
        print(f"| {setting} | {row['delta']:.3g} | {cells} | {seconds:.2f} |")


def sampling() -> None:
    """The same noise and mean batch size, by how batches are drawn."""
    _header("batches | relation | σ | ε | if the draws are known | ε, RDP")
    most = _BATCH + 6 * math.isqrt(_BATCH)
    for noise in (0.6, 1.0):
        steps = {"num_units": _RECORDS, "noise_multiplier": noise, "num_steps": _STEPS}
        sampled = steps | {"expected_batch_size": _BATCH}
        fixed = steps | {"batch_size": _BATCH}
        kinds: list[tuple[str, Mechanism]] = [
            ("Poisson", DPSGD(**sampled, neighboring="zero_out")),
            (
                f"Poisson, at most {most}",
                TruncatedPoissonDPSGD(**sampled, largest_batch_size=most),
            ),
            (
                f"Poisson, at most {_BATCH}",
                TruncatedPoissonDPSGD(**sampled, largest_batch_size=_BATCH),
            ),
            ("shuffled, 3 epochs", ShuffledDPSGD(noise_multiplier=noise, num_epochs=3)),
            ("Poisson", DPSGD(**sampled, neighboring="replace_one")),
            ("fixed size", FixedSizeDPSGD(**fixed)),
            ("fixed size", FixedSizeDPSGD(**fixed, neighboring="zero_out")),
        ]
        for name, mechanism in kinds:
            both = compare(mechanism, _DELTA)
            values = (both.pld, _known(mechanism, _DELTA), both.rdp)
            cells = " | ".join(map(_cell, values))
            print(f"| {name} | {mechanism.neighboring} | {noise:g} | {cells} |")


def allocation() -> None:
    """Random allocation, beside PLD_accounting's own bounds and Poisson sampling."""
    from PLD_accounting import gaussian_allocation_epsilon_range

    _header(
        "t | epochs | σ | δ | ours | PLD_accounting, from | to | Poisson, q = 1/t"
        " | without amplification"
    )
    for batches, epochs, noise, delta, by_it in _ALLOCATIONS:
        upper = lower = None
        if by_it:
            upper, lower = gaussian_allocation_epsilon_range(
                delta=delta,
                sigma=noise,
                num_steps=batches,
                num_epochs=epochs,
                epsilon_accuracy=0.05,
            )
        values = (
            RandomAllocationDPSGD(
                num_units=1000, batches_per_epoch=batches, noise_multiplier=noise, num_epochs=epochs
            ).epsilon(delta),
            lower,
            upper,
            DPSGD(
                num_units=batches,
                expected_batch_size=1,
                noise_multiplier=noise,
                num_steps=batches * epochs,
            ).epsilon(delta),
            FullBatch(noise_multiplier=noise, num_steps=epochs).epsilon(delta),
        )
        cells = " | ".join(map(_cell, values))
        print(f"| {batches} | {epochs} | {noise:g} | {delta:g} | {cells} |")


def published() -> None:
    """Settings of published figures, by both accountants."""
    _header("q | σ | T | δ | RDP | PLD")
    for q, noise, steps, delta in _PUBLISHED:
        both = compare(poisson(q, noise, steps), delta)
        print(f"| {q:.4g} | {noise:g} | {steps} | {delta:g} | {both.rdp:.5f} | {both.pld:.5f} |")
    # ρ = 1/(2σ²) of one Gaussian release.
    both = compare(FullBatch(noise_multiplier=(2 * 0.81) ** -0.5, num_steps=1), 1e-10)
    print(f"| 1 | {(2 * 0.81) ** -0.5:.4g} | 1 | 1e-10 | {both.rdp:.5f} | {both.pld:.5f} |")


def answers() -> None:
    """Other answers than ε, of one run."""
    run = DPSGD(
        num_units=_RECORDS, expected_batch_size=_BATCH, noise_multiplier=1.0, num_steps=_STEPS
    )
    _header("answer | value")
    epsilon = run.epsilon(1e-5)
    for delta in (1e-5, 1e-10):
        print(f"| μ for δ ≥ {delta:g} | {gaussian_dp(run, delta).mu:.3f} |")
    print(f"| belief at δ = 1e-05 | {posterior_belief(run, 1e-5):.3f} |")
    print(f"| 1/(1 + e^−ε) at δ = 1e-05 | {1 / (1 + math.exp(-epsilon)):.3f} |")
    print(f"| best guess | {best_guess_accuracy(run):.3f} |")


def memory() -> None:
    """The most memory that one answer holds at a time."""
    _header("q | σ | T | segments | MiB")
    poisson(0.5, 1.0, 1).epsilon(1e-5)  # What is imported when it is needed.
    segments = tuple(
        Segment(expected_batch_size=_NUM_UNITS / 1000, noise_multiplier=2 + i / 100, num_steps=1000)
        for i in range(100)
    )
    for q, mechanism, count in (
        (1e-3, poisson(1e-3, 2.0, 10**5), 1),
        (1e-3, poisson(1e-3, 2.0, 10**6), 1),
        (1e-5, poisson(1e-5, 0.7, 10**6), 1),
        (1e-3, DPSGDSchedule(num_units=_NUM_UNITS, segments=segments), 100),
    ):
        tracemalloc.start()
        mechanism.epsilon(1e-6)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        noise = "2 to 3" if count > 1 else f"{mechanism.noise_multiplier:g}"
        print(f"| {q:g} | {noise} | {mechanism.num_steps} | {count} | {peak / 2**20:.0f} |")


_TABLES: dict[str, Callable[[], None]] = {
    table.__name__: table for table in (others, sampling, allocation, published, answers, memory)
}


def _header(columns: str) -> None:
    print(f"| {columns} |\n|{'---|' * (columns.count('|') + 1)}")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _known(mechanism: Mechanism, delta: float) -> float | None:
    try:
        return unamplified_epsilon(mechanism, delta)
    except NotSampled:
        return None


def main(options: Options) -> None:
    """Prints the tables that are asked for."""
    # PLD_accounting warns that numba, which is optional, is missing.
    warnings.simplefilter("ignore", ImportWarning)
    with computed_afresh():
        for name in options.tables:
            print(f"\n{name}: {_TABLES[name].__doc__}\n")
            _TABLES[name]()
            sys.stdout.flush()
