"""Pictures of a run as PNG files, drawn without pyplot: no global state, no display."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from dpjax_accounting import tpr_ceiling
from numpy.typing import NDArray

from dpjax.audit.membership.attack import AttackResult
from dpjax.audit.membership.ceiling import checked_guarantee

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart with every common kind of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#595959"
_DPI = 150


def plot_roc(
    results: Mapping[str, AttackResult],
    path: str | PathLike[str],
    *,
    epsilon: float | None = None,
    delta: float | None = None,
) -> None:
    """Write the ROC curves, on linear and on logarithmic axes, as a PNG.

    With `epsilon` and `delta` the region that they exclude is shaded.

    Args:
        results: a curve for each name, which the legend shows with AUC and interval.
        path: of the file; its folder must exist.
        epsilon: of the private run among the results.
        delta: given exactly if `epsilon` is.

    Raises:
        ValueError: if there are no results, or only one of `epsilon` and `delta` is given.
        FileNotFoundError: if the folder does not exist.
    """
    if not results:
        raise ValueError("there is no attack result to draw; give at least one.")
    guarantee = checked_guarantee(epsilon, delta)
    figure = new_figure(width=11.0, height=6.4)
    linear, logarithmic = figure.subplots(1, 2)
    lowest = _lowest_rate(results.values())
    grids = (np.linspace(0, 1, 1001), np.geomspace(lowest, 1, 1001))
    for axes, grid in zip((linear, logarithmic), grids, strict=True):
        axes.plot(grid, grid, color=_GREY, linestyle=":", linewidth=1.3, label="guessing")
        if guarantee is not None:
            _draw_excluded(axes, grid, *guarantee)
        axes.set(xlabel="False positive rate", ylabel="True positive rate", aspect="equal")
    bars = []
    for index, (name, result) in enumerate(results.items()):
        colour = COLOURS[index % len(COLOURS)]
        _draw_curve(linear, name, result, colour, from_fpr=0.0)
        # To the left of one non-member the curve is known nowhere.
        _draw_curve(logarithmic, name, result, colour, from_fpr=1 / result.num_nonmembers)
        shift = index - (len(results) - 1) / 2
        bars.append(_draw_tpr(logarithmic, name, result, colour, shift=shift))
    linear.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title="All thresholds")
    logarithmic.set(xscale="log", yscale="log", xlim=(lowest, 1.1), ylim=(lowest, 1.1))
    logarithmic.set_title("Few false positives, logarithmic axes")
    for axis in (linear.xaxis, linear.yaxis, logarithmic.xaxis, logarithmic.yaxis):
        axis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "frameon": False}
    linear.legend(**below)
    logarithmic.legend(handles=bars, **below)
    _write(figure, path)


def plot_training(
    steps: Sequence[int],
    loss: Sequence[float],
    path: str | PathLike[str],
    *,
    epsilon: Sequence[float] | None = None,
    target_epsilon: float | None = None,
) -> None:
    """Write the loss and, for a private run, the ε spent over the steps, as a PNG.

    Args:
        steps: (S,) step numbers, rising.
        loss: (S,) mean loss of each step's batch, in nats.
        path: of the file; its folder must exist.
        epsilon: (S,) ε spent after each step; None without privacy.
        target_epsilon: drawn as a line if given.

    Raises:
        ValueError: if the lengths differ.
        FileNotFoundError: if the folder does not exist.
    """
    for name, values in (("loss", loss), ("epsilon", epsilon)):
        if values is not None and len(values) != len(steps):
            raise ValueError(f"{name} has {len(values)} values for {len(steps)} steps.")
    panels = 1 if epsilon is None else 2
    figure = new_figure(width=5.5 * panels, height=3.8)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_loss(axes[0], np.asarray(steps), np.asarray(loss, dtype=np.float64))
    if epsilon is not None:
        _draw_epsilon(axes[1], steps, epsilon, target_epsilon)
    for panel in axes:
        panel.set_xlabel("Step")
        panel.xaxis.get_major_locator().set_params(integer=True)
    _write(figure, path)


def _draw_curve(
    axes: Axes, name: str, result: AttackResult, colour: str, *, from_fpr: float
) -> None:
    low, high = result.auc_interval
    first = max(0, np.searchsorted(result.roc.fpr, from_fpr) - 1)
    axes.plot(
        np.maximum(result.roc.fpr[first:], from_fpr),
        result.roc.tpr[first:],
        color=colour,
        linewidth=1.8,
        label=f"{name}: AUC {result.auc:.3f} ({low:.3f} to {high:.3f})",
    )


def _draw_tpr(
    axes: Axes, name: str, result: AttackResult, colour: str, *, shift: float
) -> ErrorbarContainer:
    """The TPR at the FPR level with its interval, moved by `shift` so that no two bars coincide."""
    low, high = result.tpr_interval
    return axes.errorbar(
        result.fpr_level * 1.08**shift,
        result.tpr,
        yerr=[[result.tpr - low], [high - result.tpr]],
        color=colour,
        marker="o",
        markersize=6,
        markeredgecolor="white",
        elinewidth=1.8,
        capsize=4,
        zorder=5,
        label=f"{name}: TPR at {100 * result.fpr_level:g} % FPR: {100 * result.tpr:.1f} %"
        f" ({100 * low:.1f} to {100 * high:.1f} %)",
    )


def _draw_excluded(axes: Axes, grid: NDArray[np.float64], epsilon: float, delta: float) -> None:
    ceiling = tpr_ceiling(grid, epsilon=epsilon, delta=delta)
    axes.plot(grid, ceiling, color="black", linestyle="--", linewidth=1.3)
    axes.fill_between(
        grid,
        ceiling,
        1,
        facecolor="#E4E4E4",
        edgecolor="#BDBDBD",
        hatch="///",
        linewidth=0,
        label=f"excluded by ε = {epsilon:.3g}, δ = {delta:.3g}",
    )


def _draw_loss(axes: Axes, steps: NDArray[np.int64], loss: NDArray[np.float64]) -> None:
    window = max(1, len(loss) // 20)
    if window == 1:
        axes.plot(steps, loss, color=COLOURS[0], linewidth=2)
    else:
        kernel = np.full(window, 1 / window)
        centres = np.convolve(steps, kernel, mode="valid")
        smooth = np.convolve(loss, kernel, mode="valid")
        axes.plot(steps, loss, color=COLOURS[0], linewidth=1, alpha=0.3, label="each step")
        label = f"running mean of {window} steps"
        axes.plot(centres, smooth, color=COLOURS[0], linewidth=2, label=label)
        axes.legend(frameon=False)
    axes.set(ylabel="Cross-entropy (nats)", title="Training loss")


def _draw_epsilon(
    axes: Axes, steps: Sequence[int], epsilon: Sequence[float], target: float | None
) -> None:
    axes.plot(steps, epsilon, color=COLOURS[0], linewidth=2, label="spent")
    if target is not None:
        axes.axhline(target, color=_GREY, linestyle="--", label="target")
        axes.legend(loc="lower right", frameon=False)
    axes.set_title("Privacy spent")
    axes.set_ylabel("ε", rotation=0, labelpad=10)
    axes.set_ylim(bottom=0)


def _lowest_rate(results: Collection[AttackResult]) -> float:
    """A power of ten: the FPR of one non-member, and room to the left of every FPR level."""
    rates = [min(1 / result.num_nonmembers, result.fpr_level / 2) for result in results]
    return float(10.0 ** np.floor(np.log10(min(rates))))


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure, in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """Returns a figure as PNG, without the upper and right edges of its panels."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _write(figure: Figure, path: str | PathLike[str]) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=10)
        axes.xaxis.label.set_fontsize(11)
        axes.yaxis.label.set_fontsize(11)
        axes.title.set_fontsize(12)
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)
