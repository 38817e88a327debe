"""`make audit-self`: trains, attacks and judges every procedure, and prints what came out."""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable

from tests.support.self_audit.judging import Judgement
from tests.support.self_audit.loop import Procedure
from tests.support.self_audit.procedures import PLANTED
from tests.support.self_audit.setting import DELTA
from tests.support.self_audit.task import PROCEDURES, Task

_ROW = "{:38} {:>7} {:>9} {:>11} {:>11}  {}"


def main() -> int:
    """Returns the exit status: 1 if a verdict is not as expected."""
    parser = argparse.ArgumentParser(prog="make audit-self", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other runs")
    options = parser.parse_args()
    started = time.perf_counter()
    print(f"Lower bounds with confidence 95 %, and the accountant's ε, at δ = {DELTA:g}.\n")
    print(_ROW.format("procedure", "runs", "claimed ε", "certified ε̂", "Gaussian ε̂", "verdict"))
    # The longest first: the processes then end together.
    order = sorted(range(len(PROCEDURES)), key=lambda index: -PROCEDURES[index].num_runs)
    with concurrent.futures.ProcessPoolExecutor(
        os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        judged = {index: pool.submit(Task(index, options.seed).judge) for index in order}
        unexpected = print_rows(judged[index].result() for index in range(len(PROCEDURES)))
    print(f"\n{time.perf_counter() - started:.0f} s. ", end="")
    if unexpected:
        print(f"Not as expected: {', '.join(unexpected)}.")
        return 1
    print("The library keeps its claims, and every planted bug is a violation.")
    return 0


def print_rows(judged: Iterable[tuple[int, Judgement]]) -> list[str]:
    """Prints the table; returns the names of the procedures that are not as expected."""
    unexpected = []
    for procedure, (num_runs, found) in zip(PROCEDURES, judged, strict=True):
        if procedure is PLANTED[0]:
            print("\nWith a planted bug:")
        complaint = _complaint(procedure, found)
        if complaint:
            unexpected.append(procedure.name)
        verdict = ("violation" if found.is_violation else "no violation") + complaint
        numbers = (found.claimed_epsilon, found.certified.epsilon, found.gaussian.epsilon)
        row = _ROW.format(procedure.name, num_runs, *(f"{x:.2f}" for x in numbers), verdict)
        print(row, flush=True)
    return unexpected


def _complaint(procedure: Procedure, found: Judgement) -> str:
    if found.is_violation != procedure.is_broken:
        return ", WRONG"
    if found.gaussian.epsilon < procedure.least_share * found.claimed_epsilon:
        return f", ε̂ IS BELOW {100 * procedure.least_share:.0f} % OF ε"
    return ""


if __name__ == "__main__":
    sys.exit(main())
