"""`make audit-self`: trains, attacks and judges every procedure, and prints what came out."""

from __future__ import annotations

import argparse
import sys
import time

from tests.support.self_audit.judging import judge_runs
from tests.support.self_audit.loop import train
from tests.support.self_audit.procedures import PLANTED, REAL
from tests.support.self_audit.setting import DELTA

_ROW = "{:36} {:>8} {:>9} {:>12} {:>11}  {}"


def main() -> int:
    """Returns the exit status: 1 if a verdict is not as expected."""
    parser = argparse.ArgumentParser(prog="make audit-self", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other runs")
    parser.add_argument("--share", type=float, default=1.0, help="of the runs that are trained")
    options = parser.parse_args()
    started, unexpected = time.perf_counter(), []
    print(f"Lower bounds with confidence 95 %, and the accountant's ε, at δ = {DELTA:g}.\n")
    print(_ROW.format("procedure", "runs", "claimed ε", "certified ε̂", "Gaussian ε̂", "verdict"))
    for procedure in (*REAL, *PLANTED):
        scores, coins = train(
            procedure, num_runs=int(options.share * procedure.num_runs), seed=options.seed
        )
        found = judge_runs(scores, coins, claim=procedure.claim, delta=DELTA)
        verdict = "violation" if found.is_violation else "no violation"
        if found.is_violation != procedure.is_broken:
            unexpected.append(procedure.name)
            verdict += ", WRONG"
        if found.gaussian.epsilon < procedure.least_share * found.claimed_epsilon:
            unexpected.append(procedure.name)
            verdict += f", ε̂ BELOW {100 * procedure.least_share:.0f} % OF ε"
        if procedure is PLANTED[0]:
            print("\nWith a planted bug:")
        numbers = (found.claimed_epsilon, found.certified.epsilon, found.gaussian.epsilon)
        row = _ROW.format(procedure.name, len(scores), *(f"{x:.2f}" for x in numbers), verdict)
        print(row, flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s. ", end="")
    if unexpected:
        print(f"Not as expected: {', '.join(unexpected)}.")
        return 1
    print("The library keeps its claims, and every planted bug is a violation.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
