"""How often the bounds of an audit exceed the truth, and how close they come to it.

    python -m benchmarks audit                 # all tables
    python -m benchmarks audit --tables tightness

- validity: channels of known ε, many audits each. A certified bound may exceed the ε in at most 5 %
  of audits. The bounds of a Gaussian trade-off function are compared with the ε of the least leaky
  Gaussian release whose trade-off function lies below the channel's, which is their model.
- tightness: medians of one run whose canaries are ideal: independent Gaussian measurements, as
  those of gradient canaries are under full-batch training.
- runs: medians of many independent runs of one canary, by their number.

All at δ = 1e-5 and a confidence of 95 %. The table of runs takes its threshold where the expected
counts give the largest bound.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import special

from benchmarks.results_file import write_results
from benchmarks.support.audit_channels import (
    Channel,
    gaussian_channel,
    null_channel,
    randomised_response,
    shared_event,
)
from dpjax.audit import (
    DEFAULT_PLAN,
    SYMMETRIC_PLAN,
    AttackCounts,
    GaussianCurves,
    GuessPlan,
    clopper_pearson_epsilon,
    gaussian_epsilon,
)
from dpjax.audit.bounds.from_scores import epsilon_of_guesses, joint_p_value
from dpjax.audit.bounds.guesses import Guesses, count_correct
from dpjax.audit.bounds.independent_channels import independent_channels_epsilon
from dpjax.audit.bounds.one_run_fdp import is_rejected, one_run_fdp_epsilon
from dpjax.audit.verdicts.power import gaussian_mu

_DELTA, _CONFIDENCE = 1e-5, 0.95
# The bound of independent channels allows one number of guesses.
_EVERY, _SURE = GuessPlan(((0.5, 0.5),)), GuessPlan(((0.2, 0.2),))


@dataclasses.dataclass(frozen=True)
class Options:
    """What is simulated."""

    tables: tuple[Literal["validity", "tightness", "runs"], ...] = ("validity", "tightness", "runs")
    repeats: int = 2000
    """Audits of each channel in the table of validity; the others take a tenth."""
    sizes: tuple[int, ...] = (200, 1000, 5000)
    """Numbers of canaries in the table of validity."""
    num_canaries: int = 1000
    """In the table of tightness."""
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """True ones in the tables of tightness and of runs."""
    num_runs: tuple[int, ...] = (1000, 3000, 10_000, 30_000, 100_000)
    """In the table of runs; half of them with the canary."""
    seed: int = 0
    output: Path = Path("benchmarks/results/audit.json")


@functools.cache
def certified(guesses: tuple[Guesses, ...], num_canaries: int) -> float:
    """Returns the certified bound of a plan's guesses."""
    return epsilon_of_guesses(
        guesses, num_canaries=num_canaries, delta=_DELTA, confidence=_CONFIDENCE
    )


@functools.cache
def certified_exceeds(epsilon: float, guesses: tuple[Guesses, ...], num_canaries: int) -> bool:
    """Returns whether the certified bound exceeds ε, which it can only if ε is refuted."""
    p_value = joint_p_value(guesses, num_canaries=num_canaries, epsilon=epsilon, delta=_DELTA)
    return p_value < 1 - _CONFIDENCE and certified(guesses, num_canaries) > epsilon


@functools.cache
def fdp_of_a_step(step: Guesses, num_canaries: int, num_steps: int) -> float:
    """Returns the bound of a Gaussian trade-off function from one of a plan's steps."""
    return one_run_fdp_epsilon(
        num_canaries=num_canaries,
        num_guesses=step.num_guesses,
        num_correct=step.num_correct,
        delta=_DELTA,
        confidence=1 - (1 - _CONFIDENCE) / num_steps,
    ).epsilon


def fdp(guesses: tuple[Guesses, ...], num_canaries: int) -> float:
    """Returns the bound of a Gaussian trade-off function: the largest of all steps."""
    return max(fdp_of_a_step(step, num_canaries, len(guesses)) for step in guesses)


def fdp_exceeds(mu: float, guesses: tuple[Guesses, ...], num_canaries: int) -> bool:
    """Returns whether the bound of a Gaussian trade-off function exceeds the ε of μ."""
    return any(_step_rejects(mu, step, num_canaries, len(guesses)) for step in guesses)


@functools.cache
def _step_rejects(mu: float, step: Guesses, num_canaries: int, num_steps: int) -> bool:
    return is_rejected(
        GaussianCurves().least_probability(mu),
        num_canaries=num_canaries,
        num_guesses=step.num_guesses,
        num_correct=step.num_correct,
        significance=(1 - _CONFIDENCE) / num_steps,
    )


@functools.cache
def independent(guesses: tuple[Guesses, ...], num_canaries: int) -> float:
    """Returns the bound of independent Gaussian channels from one step."""
    [step] = guesses
    return independent_channels_epsilon(
        num_canaries=num_canaries, **step._asdict(), delta=_DELTA, confidence=_CONFIDENCE
    ).epsilon


def audits(
    channel: Channel, num_canaries: int, repeats: int, seed: int, plans: dict[str, GuessPlan]
) -> list[dict[str, tuple[Guesses, ...]]]:
    """Returns the guesses of every audit, by the name of the plan."""
    rng = np.random.default_rng([seed, num_canaries])
    found = []
    for _ in range(repeats):
        coins = rng.random(num_canaries) < 0.5
        scores = channel.draw(rng, coins)
        found.append(
            {name: tuple(count_correct(scores, coins, plan)) for name, plan in plans.items()}
        )
    return found


def validity(options: Options) -> list[dict[str, Any]]:
    """Returns, by channel and size, how often each bound exceeds the truth."""
    rows = []
    plans = {"default": DEFAULT_PLAN, "every": _EVERY}
    channels = (
        null_channel(),
        randomised_response(1.0),
        gaussian_channel(1.0, gaussian_mu(1.0, _DELTA)),
        shared_event(0.06),
        shared_event(0.2),
    )
    for channel in channels:
        modelled = GaussianCurves().epsilon(channel.mu, _DELTA)
        for m in options.sizes:
            exceeds = [
                {
                    "certified": certified_exceeds(channel.epsilon, guesses["default"], m),
                    "f-DP": fdp_exceeds(channel.mu, guesses["default"], m),
                    "independent channels": independent(guesses["every"], m) > modelled,
                }
                for guesses in audits(channel, m, options.repeats, options.seed, plans)
            ]
            rows.append(
                {
                    "table": "validity",
                    "channel": channel.name,
                    "num_canaries": m,
                    "epsilon": channel.epsilon,
                    "gaussian_epsilon": modelled,
                    "exceeds": {
                        name: float(np.mean([row[name] for row in exceeds])) for name in exceeds[0]
                    },
                }
            )
    return rows


def tightness(options: Options) -> list[dict[str, Any]]:
    """Returns, by true ε, the median of each bound of one run with ideal canaries."""
    rows = []
    plans = {"default": DEFAULT_PLAN, "symmetric": SYMMETRIC_PLAN, "sure": _SURE}
    m = options.num_canaries
    for epsilon in options.epsilons:
        channel = gaussian_channel(epsilon, gaussian_mu(epsilon, _DELTA))
        bounds = [
            {
                "certified, default plan": certified(guesses["default"], m),
                "certified, symmetric plan": certified(guesses["symmetric"], m),
                "f-DP, default plan": fdp(guesses["default"], m),
                "f-DP, symmetric plan": fdp(guesses["symmetric"], m),
                "independent channels": independent(guesses["sure"], m),
            }
            for guesses in audits(channel, m, options.repeats // 10, options.seed, plans)
        ]
        medians = {name: float(np.median([row[name] for row in bounds])) for name in bounds[0]}
        rows.append({"table": "tightness", "epsilon": epsilon, "medians": medians})
    return rows


def runs(options: Options) -> list[dict[str, Any]]:
    """Returns, by true ε and number of runs, the median of each bound of many runs."""
    rows = []
    rng = np.random.default_rng(options.seed)
    for epsilon in options.epsilons:
        mu = gaussian_mu(epsilon, _DELTA)
        for total in options.num_runs:
            medians = {}
            for name, bound in (
                ("Clopper-Pearson", clopper_pearson_epsilon),
                ("Gaussian", gaussian_epsilon),
            ):
                counted = functools.partial(_of_counts, bound, total // 2)
                rates = max(_rates(mu), key=lambda rates: counted(*rates))
                draws = rng.binomial(total // 2, rates, size=(options.repeats // 10, 2))
                medians[name] = float(
                    np.median([counted(*(draw / (total // 2))) for draw in draws])
                )
            rows.append(
                {"table": "runs", "epsilon": epsilon, "num_runs": total, "medians": medians}
            )
    return rows


def _rates(mu: float) -> list[tuple[float, float]]:
    """Returns (TPR, FPR) of scores N(μ, 1) and N(0, 1) at several thresholds."""
    thresholds = np.linspace(mu / 2, mu / 2 + 3, 25)
    return [(float(special.ndtr(mu - t)), float(special.ndtr(-t))) for t in thresholds]


def _of_counts(bound: Callable[..., Any], half: int, tpr: float, fpr: float) -> float:
    counts = AttackCounts(
        true_positives=round(tpr * half),
        num_positives=half,
        false_positives=round(fpr * half),
        num_negatives=half,
    )
    found: float = bound(counts, delta=_DELTA, confidence=_CONFIDENCE).epsilon
    return found


def _print(rows: list[dict[str, Any]]) -> None:
    """Prints rows of one table as Markdown: their texts and numbers, then their last entry's."""
    *names, last = list(rows[0])[1:]
    columns = [*names, *rows[0][last]]
    print(f"\n{rows[0]['table']}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    form = "{:.1%}" if last == "exceeds" else "{:.2f}"
    for row in rows:
        cells = [
            f"{row[name]:.4g}" if isinstance(row[name], float) else row[name] for name in names
        ]
        print(f"| {' | '.join(map(str, [*cells, *map(form.format, row[last].values())]))} |")


def main(options: Options) -> None:
    """Simulates the tables that are asked for, prints them and writes the JSON file."""
    makers = {"validity": validity, "tightness": tightness, "runs": runs}
    rows = []
    for name in options.tables:
        made = makers[name](options)
        _print(made)
        rows += made
    write_results(
        options.output,
        options,
        rows,
        keys=("table", "channel", "num_canaries", "epsilon", "num_runs"),
    )
