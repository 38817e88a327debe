"""One procedure, trained and judged in a process of its own."""

from __future__ import annotations

import dataclasses

from tests.support.self_audit.judging import Judgement, judge_runs
from tests.support.self_audit.loop import train
from tests.support.self_audit.procedures import PLANTED, REAL
from tests.support.self_audit.setting import DELTA

PROCEDURES = (*REAL, *PLANTED)


@dataclasses.dataclass(frozen=True)
class Task:
    """Which procedure, by its place: procedures themselves cannot be sent to another process.

    Attributes:
        index: in `PROCEDURES`.
        seed: of the runs.
    """

    index: int
    seed: int

    def judge(self) -> tuple[int, Judgement]:
        """Returns how many runs were trained, and what they say."""
        procedure = PROCEDURES[self.index]
        scores, coins = train(procedure, num_runs=procedure.num_runs, seed=self.seed)
        return len(scores), judge_runs(scores, coins, claim=procedure.claim, delta=DELTA)
