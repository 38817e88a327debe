"""`make audit-self`: trains, attacks and judges every procedure, and prints what came out."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable

from tests.support.self_audit.judging import Judgement, judge_runs
from tests.support.self_audit.loop import train
from tests.support.self_audit.procedures import PLANTED, REAL, Procedure
from tests.support.self_audit.setting import DELTA

_ALL = (*REAL, *PLANTED)
_ROW = "{:38} {:>7} {:>9} {:>11} {:>11}  {}"


@dataclasses.dataclass
class _Task:
    """Which procedure, by its place, for a process of its own."""

    index: int
    seed: int
    share: float

    def judge(self) -> tuple[int, Judgement]:
        procedure = _ALL[self.index]
        num_runs = int(self.share * procedure.num_runs)
        scores, coins = train(procedure, num_runs=num_runs, seed=self.seed)
        return len(scores), judge_runs(scores, coins, claim=procedure.claim, delta=DELTA)


def main() -> int:
    """Returns the exit status: 1 if a verdict is not as expected."""
    parser = argparse.ArgumentParser(prog="make audit-self", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other runs")
    parser.add_argument("--share", type=float, default=1.0, help="of the runs that are trained")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    options = parser.parse_args()
    started = time.perf_counter()
    print(f"Lower bounds with confidence 95 %, and the accountant's ε, at δ = {DELTA:g}.\n")
    print(_ROW.format("procedure", "runs", "claimed ε", "certified ε̂", "Gaussian ε̂", "verdict"))
    tasks = [_Task(index, options.seed, options.share) for index in range(len(_ALL))]
    with concurrent.futures.ProcessPoolExecutor(
        options.jobs, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        unexpected = _print_rows(pool.map(_Task.judge, tasks))
    print(f"\n{time.perf_counter() - started:.0f} s. ", end="")
    if unexpected:
        print(f"Not as expected: {', '.join(unexpected)}.")
        return 1
    print("The library keeps its claims, and every planted bug is a violation.")
    return 0


def _print_rows(judged: Iterable[tuple[int, Judgement]]) -> list[str]:
    unexpected = []
    for procedure, (num_runs, found) in zip(_ALL, judged, strict=True):
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
