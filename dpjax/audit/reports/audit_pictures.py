"""Pictures of audits as PNG: ROC with what each claim allows, and histograms of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from dpjax_accounting import Mechanism, tpr_ceiling, trade_off
from numpy.typing import NDArray

from dpjax.audit.membership.attack import AttackResult
from dpjax.audit.reports.audit_report import attack_of, inputs_of
from dpjax.audit.reports.plots import COLOURS, as_png, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_audit_roc(reports: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Returns ROC curves on logarithmic axes, and the most that each claim allows, as PNG.

    Args:
        reports: a curve for each name; of a single one, what its claim excludes is shaded.
    """
    attacks = {name: attack_of(report) for name, report in reports.items()}
    fewest = min(attack.num_nonmembers for attack in attacks.values())
    lowest = 10.0 ** np.floor(np.log10(1 / fewest))
    grid = np.geomspace(lowest, 1, 400)
    figure = new_figure(width=6.0, height=5.2)
    axes = figure.subplots()
    axes.plot(grid, grid, color="#595959", linestyle=":", label="guessing")
    for (name, report), colour in zip(reports.items(), _colours(len(reports)), strict=True):
        ceiling, label = _ceiling(report, grid)
        if ceiling is not None and len(reports) == 1:
            axes.plot(grid, ceiling, color="black", linestyle="--", linewidth=1.3)
            axes.fill_between(grid, ceiling, 1, color="#E4E4E4", linewidth=0, label=label)
        elif ceiling is not None:
            label = f"{name}: the most that its claim allows"
            axes.plot(grid, ceiling, color=colour, linestyle="--", linewidth=1.3, label=label)
        _draw_attack(axes, name, attacks[name], colour, lowest)
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1.05), ylim=(lowest, 1.05))
    axes.set(xlabel="False positive rate", ylabel="True positive rate")
    axes.legend(loc="lower right", frameon=False)
    return as_png(figure)


def draw_scores(report: Mapping[str, Any]) -> bytes:
    """Returns the scores inside and outside training as PNG; infinite ones are left out."""
    canaries, _ = inputs_of(report)
    finite = np.isfinite(canaries.scores)
    figure = new_figure(width=6.0, height=3.6)
    axes = figure.subplots()
    if finite.any():
        edges = np.histogram_bin_edges(canaries.scores[finite], bins=40)
        for is_in, name, colour in ((True, "in training", "#D55E00"), (False, "not", "#0072B2")):
            chosen = canaries.scores[finite & (canaries.included == is_in)]
            axes.hist(chosen, bins=edges.tolist(), color=colour, alpha=0.55, label=name)
        axes.legend(frameon=False)
    axes.set(xlabel=f"Score ({report['score']})", ylabel=report["audited"].capitalize())
    return as_png(figure)


def _colours(number: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(number)]


def _draw_attack(axes: Axes, name: str, attack: AttackResult, colour: str, lowest: float) -> None:
    axes.step(
        np.maximum(attack.roc.fpr, lowest),
        attack.roc.tpr,
        where="post",
        color=colour,
        linewidth=2,
        label=f"{name}: AUC {attack.auc:.3f}",
    )
    low, high = attack.tpr_interval
    axes.errorbar(
        attack.fpr_level,
        attack.tpr,
        yerr=[[attack.tpr - low], [high - attack.tpr]],
        color=colour,
        marker="o",
        capsize=4,
    )


def _ceiling(
    report: Mapping[str, Any], fpr: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, str]:
    epsilon, delta = report["claimed_epsilon"], report["delta"]
    if epsilon is None:
        return None, ""
    mechanism: Mechanism | None = inputs_of(report)[1]["mechanism"]
    by_epsilon = tpr_ceiling(fpr, epsilon=epsilon, delta=delta)
    if mechanism is None:
        return by_epsilon, f"excluded by ε = {epsilon:.3g}, δ = {delta:g}"
    return np.minimum(by_epsilon, trade_off(mechanism, fpr)), "excluded by the claimed mechanism"
