"""What a reader of a privacy report must know before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEED_WARNING = (
    "The seed was fixed. Whoever knows or guesses it can compute the noise and subtract it. "
    "Against this person the guarantee is void. A fixed seed is for tests."
)
NON_PRIVATE_WARNING = "Trained WITHOUT privacy: no clipping, no noise, no guarantee of any kind."


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Returns the warnings of a report that fits the schema, and those that follow from it."""
    lines = list(report["warnings"])
    if not report["private"]:
        return list(dict.fromkeys([*lines, NON_PRIVATE_WARNING]))
    guarantee = report["guarantee"]
    if report["randomness"]["seed_fixed"]:
        lines.append(SEED_WARNING)
    if report["status"] == "unfinished":
        lines.append(
            f"The run is unfinished: the claim covers {report['steps_completed']} of"
            f" {report['steps_planned']} steps, and nothing that is released after them. If results"
            " decided when to stop, only the epsilon of all steps planned is a promise that could"
            " have been made before the run."
        )
    share = None if guarantee is None else guarantee["delta_times_num_units"]
    if share is not None and share >= 1:
        lines.append(
            f"delta={guarantee['delta']:g} is not below 1 / (number of {guarantee['unit']}s). This"
            f" delta permits revealing a whole {guarantee['unit']}."
        )
    return list(dict.fromkeys(lines))
