"""Whether a privacy report is what it says: everything that can be recomputed is."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpjax_accounting.engine.answer_cache import computed_afresh
from dpjax_accounting.ledger.chained_file import Head
from dpjax_accounting.ledger.ledger import Ledger
from dpjax_accounting.mechanisms.adaptive_clipping import AdaptiveClippingDPSGD
from dpjax_accounting.mechanisms.laplace import LaplaceDPSGD
from dpjax_accounting.mechanisms.mechanism import Mechanism, mechanism_from_dict
from dpjax_accounting.mechanisms.other_samplings.banded import BandedDPSGD
from dpjax_accounting.mechanisms.schedule import DPSGDSchedule
from dpjax_accounting.report.claim import claim
from dpjax_accounting.report.schema import report_schema
from dpjax_accounting.report.schema_check import violations

# Relative. Another processor or version of the accountant may round differently.
TOLERANCE = 1e-3


def read_report(path: str | Path) -> Any:
    """Returns the JSON value in a file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it does not hold JSON, or an object in it has a key twice.
    """
    try:
        return json.loads(
            Path(path).read_bytes(),
            object_pairs_hook=_without_repetition,
            parse_constant=_not_a_number,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not hold a privacy report: {error}.") from error


@computed_afresh()
def verify_report(report: Any, ledger: Ledger | None = None) -> list[str]:
    """Returns what is wrong with a privacy report, a sentence each; empty if its claim holds.

    The report must fit the schema. Everything that follows from the mechanism, δ and the steps
    completed is computed again: ε, ε at other δ, the bounds on tests, the status, and the total of
    the data set. Nothing is taken from the cache on disk. Numbers may differ by 0.1 %, in either
    direction: a larger ε would hold too, but is not that of this mechanism.

    Nobody can tell from the report whether the run did what it says. Against a report in which
    parameters and ε were changed together only the ledger helps, if it was kept elsewhere.

    Args:
        report: as :func:`read_report` returns it.
        ledger: if given, the run must be in it with the same mechanism and steps, and it must have
            grown from the state that the report quotes.

    Returns:
        sentences for people; an empty list if the claim holds.

    Raises:
        TamperedError: if the ledger is not what was written.

    Example:
        >>> verify_report({"private": True})[0]
        'schema_version is missing.'
    """
    problems = violations(report, report_schema())
    if problems:
        return problems
    if not report["private"]:
        return ["The run was not private: there is no claim to verify."]
    for name in ("guarantee", "mechanism", "accountant", "implementation"):
        if report[name] is None:
            problems.append(f"{name} is missing, although the run is said to be private.")
    if problems:
        return problems
    try:
        mechanism = mechanism_from_dict(report["mechanism"])
        with warnings.catch_warnings():
            # A large delta is a remark, no contradiction.
            warnings.simplefilter("ignore")
            again = _claim_again(report, mechanism)
    except (ValueError, TypeError, ArithmeticError) as error:
        return [f"ε cannot be recomputed: {error}"]
    problems = [*_epsilon(report, again), *_differences(report, again)]
    problems += _implementation(report, mechanism) + _dataset_total(report, mechanism)
    return problems if ledger is None else problems + _against_ledger(report, mechanism, ledger)


def _claim_again(report: Mapping[str, Any], mechanism: Mechanism) -> dict[str, Any]:
    guarantee = report["guarantee"]
    others = [pair["delta"] for pair in guarantee["other_deltas"]]
    return claim(
        mechanism,
        guarantee["delta"],
        steps_completed=report["steps_completed"],
        other_deltas=others,
    )


def _epsilon(report: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    claimed, recomputed = report["guarantee"]["epsilon"], again["guarantee"]["epsilon"]
    if _close(claimed, recomputed):
        return []
    steps = "" if report["steps_completed"] is None else f" after {report['steps_completed']} steps"
    where = f"epsilon={claimed:.6g} is claimed at delta={report['guarantee']['delta']:g}, but the"
    stated, here = report["accountant"]["version"], again["accountant"]["version"]
    versions = ""
    if stated != here:
        versions = f" (Reported with version {stated} of the accountant, verified with {here}.)"
    return [
        f"{where} mechanism has {recomputed:.6g}{steps}: the claim is too"
        f" {'low' if claimed < recomputed else 'high'}, so epsilon, delta, steps or parameters are"
        f" not those of the run.{versions}"
    ]


def _differences(report: Mapping[str, Any], again: dict[str, Any]) -> list[str]:
    """Everything else that `claim` makes, compared; not the accountant's version."""
    guarantee = again["guarantee"] | {"epsilon": report["guarantee"]["epsilon"]}
    expected = again | {"guarantee": guarantee, "accountant": report["accountant"]}
    problems: list[str] = []
    for name, value in expected.items():
        _compare(report[name], value, name, problems)
    return problems


def _compare(given: Any, computed: Any, where: str, problems: list[str]) -> None:
    if isinstance(given, dict) and isinstance(computed, dict):
        for key in computed:
            _compare(given.get(key), computed[key], f"{where}.{key}", problems)
    elif isinstance(given, list) and isinstance(computed, list) and len(given) == len(computed):
        for index, pair in enumerate(zip(given, computed, strict=True)):
            _compare(*pair, f"{where}[{index}]", problems)
    elif not _close(given, computed):
        problems.append(f"{where} is {given!r} in the report, but comes out as {computed!r}.")


def _close(given: Any, computed: Any) -> bool:
    if isinstance(given, float) or isinstance(computed, float):
        numbers = (int, float)
        if not isinstance(given, numbers) or not isinstance(computed, numbers):
            return False
        return math.isclose(given, computed, rel_tol=TOLERANCE)
    return type(given) is type(computed) and given == computed


def _implementation(report: Mapping[str, Any], mechanism: Mechanism) -> list[str]:
    """The noise that was added must be that of the mechanism."""
    noise = getattr(mechanism, "noise_multiplier", None)
    if isinstance(mechanism, AdaptiveClippingDPSGD):
        # `noise_multiplier` is that of the sum and the count together.
        noise = mechanism.gradient_noise_multiplier
    elif isinstance(mechanism, LaplaceDPSGD):
        noise = mechanism.noise_stddev
    problems: list[str] = []
    name, stated = "noise_standard_deviation", report["implementation"]
    norms, where = stated["clip_norm"], f"implementation.{name}"
    if isinstance(mechanism, DPSGDSchedule):
        parts = mechanism.segments
        if not isinstance(norms, list):
            norms = [norms] * len(parts)
        if len(norms) != len(parts):
            return [f"implementation.clip_norm has {len(norms)} numbers for {len(parts)} segments."]
        by_segment = [part.noise_multiplier * norm for part, norm in zip(parts, norms, strict=True)]
        _compare(stated[name], by_segment, where, problems)
    elif noise is not None:
        expected = [noise * c for c in norms] if isinstance(norms, list) else noise * norms
        _compare(stated[name], expected, where, problems)
    problems += _adaptive_clipping(stated["adaptive_clipping"], mechanism)
    return problems + _correlation(stated["noise_correlation"], mechanism)


def _adaptive_clipping(stated: Mapping[str, Any] | None, mechanism: Mechanism) -> list[str]:
    """The clip norm changes where the mechanism pays for the count that it follows."""
    name = "implementation.adaptive_clipping"
    if not isinstance(mechanism, AdaptiveClippingDPSGD):
        return [] if stated is None else [f"{name} must be null: no count is accounted for."]
    if stated is None:
        return [f"{name} must say how the clip norm adapts, got null."]
    problems: list[str] = []
    _compare(stated["count_stddev"], mechanism.count_stddev, f"{name}.count_stddev", problems)
    return problems


def _correlation(stated: Mapping[str, Any] | None, mechanism: Mechanism) -> list[str]:
    """Noise is correlated where the mechanism says so, and with no more bands."""
    name = "implementation.noise_correlation"
    if not isinstance(mechanism, BandedDPSGD):
        return [] if stated is None else [f"{name} must be null: noise is independent."]
    if stated is None:
        return [f"{name} must say how noise is correlated, got null."]
    steps, coefs = mechanism.num_steps, stated["coefs"]
    # Without coefficients there are buffers, and the matrix has all bands.
    bands = steps if coefs is None else min(len(coefs), steps)
    if bands > mechanism.bands:
        return [f"{name} has {bands} bands, but the mechanism {mechanism.bands}."]
    return []


def _dataset_total(report: Mapping[str, Any], mechanism: Mechanism) -> list[str]:
    total, guarantee = report["dataset_total"], report["guarantee"]
    if total is None:
        return []
    problems: list[str] = []
    _compare(total["delta"], guarantee["delta"], "dataset_total.delta", problems)
    recomputed = 0.0
    if total["mechanism"] is not None:
        try:
            everything = mechanism_from_dict(total["mechanism"])
            recomputed = everything.epsilon(total["delta"])
        except (ValueError, TypeError, ArithmeticError) as error:
            return [f"dataset_total cannot be recomputed: {error}"]
        for name in ("unit", "neighboring"):
            expected = getattr(mechanism, name)
            _compare(
                getattr(everything, name), expected, f"dataset_total.mechanism.{name}", problems
            )
    _compare(total["epsilon"], recomputed, "dataset_total.epsilon", problems)
    if not problems and recomputed < guarantee["epsilon"] * (1 - TOLERANCE):
        problems.append(
            f"dataset_total.epsilon={recomputed:.6g} is less than the run's own epsilon"
            f"={guarantee['epsilon']:.6g}: the run is not in it."
        )
    return problems


def _against_ledger(report: Mapping[str, Any], mechanism: Mechanism, ledger: Ledger) -> list[str]:
    entries = {entry.run: entry for entry in ledger.entries()}
    run, total = report["run"]["id"], report["dataset_total"]
    if run not in entries:
        return [f"The ledger has no run {run!r}: it was not charged."]
    problems = []
    entry = entries[run]
    if entry.charged != mechanism:
        problems.append(f"In the ledger run {run!r} has another mechanism: {entry.charged}.")
    steps = report["steps_completed"]
    if entry.num_steps is not None and steps is not None and entry.num_steps < steps:
        problems.append(
            f"The ledger counts {entry.num_steps} steps of run {run!r}, the report {steps}."
        )
    if total is not None and not ledger.contains(Head(**total["ledger_head"])):
        problems.append("The ledger never was in the state that the report quotes.")
    return problems


def _not_a_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} appears twice in one object")
    return dict(pairs)
