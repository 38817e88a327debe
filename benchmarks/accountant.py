"""Prints ε of `dpjax_accounting` beside that of other accountants, as a Markdown table.

    python benchmarks/accountant.py

The others' values, and the reference, are those of tests/accounting/reference.json, where they were
measured once; ours are computed now.
"""

from __future__ import annotations

import json
import pathlib
import time

from dpjax_accounting import DPSGD, compare

REFERENCE = pathlib.Path(__file__).parents[1] / "tests" / "accounting" / "reference.json"
_NUM_UNITS = 10**9


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def main() -> None:
    """Print the table, and the seconds that ours took on this machine."""
    print(
        "| q | T | σ | δ | reference | ours, PLD | ours, RDP | dp-accounting PLD"
        " | dp-accounting RDP | Opacus PRV | prv_accountant | seconds |\n|" + "---|" * 12
    )
    for row in json.loads(REFERENCE.read_text())["poisson"]:
        mechanism = DPSGD(_NUM_UNITS, row["q"] * _NUM_UNITS, row["noise_multiplier"], row["steps"])
        begin = time.perf_counter()
        mechanism.epsilon(row["delta"])
        seconds = time.perf_counter() - begin
        ours = compare(mechanism, row["delta"])
        values = (row["reference"], ours.pld, ours.rdp)
        others = (row["pld"], row["rdp"], row["opacus_prv"], row["prv_estimate"])
        setting = f"| {row['q']:.4g} | {row['steps']} | {row['noise_multiplier']:g}"
        cells = " | ".join(_cell(value) for value in values + others)
        print(f"{setting} | {row['delta']:.3g} | {cells} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
