"""Pictures of a guarantee as PNG files, drawn without pyplot: no global state, no display."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from dpjax_accounting.mechanisms.mechanism import Mechanism
from dpjax_accounting.mechanisms.stepwise import Stepwise
from dpjax_accounting.readings.epsilon_by_step import EpsilonBySteps
from dpjax_accounting.readings.tpr_ceiling import tpr_ceiling
from dpjax_accounting.readings.trade_off import largest_tpr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _GREY = "#0072B2", "#595959"
_NUM_POINTS = 400


def epsilon_picture(mechanism: Stepwise, delta: float, steps_completed: int) -> bytes:
    """Returns ε after every step, a PNG; the steps that were not executed are dotted.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `delta` or `steps_completed` is out of range.
    """
    spent = EpsilonBySteps(mechanism, delta)
    steps = np.unique(np.linspace(0, mechanism.num_steps, 200).astype(int))
    steps = np.unique(np.append(steps, steps_completed))
    values = np.array([spent.at(int(step)) for step in steps])
    done = steps <= steps_completed
    figure, axes = _new_figure()
    if not done.all():
        axes.plot(steps, values, color=_GREY, linestyle=":", label="planned")
    axes.plot(steps[done], values[done], color=_BLUE, linewidth=2, label="spent")
    axes.set(xlabel="Step", ylabel="ε", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"Privacy spent, δ = {delta:.3g}")
    axes.legend(frameon=False)
    return _png(figure, axes)


def tradeoff_picture(mechanism: Mechanism, delta: float) -> bytes:
    """Returns the best any test of membership can do, a PNG: the trade-off curve.

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: if `delta` is out of range.
    """
    rates = np.concatenate([np.geomspace(1e-6, 0.01, 50), np.linspace(0.01, 1, _NUM_POINTS)])
    epsilon = mechanism.epsilon(delta)
    figure, axes = _new_figure()
    single = tpr_ceiling(rates, epsilon=epsilon, delta=delta)
    label = f"bound by ε = {epsilon:.3g}, δ = {delta:.3g} alone"
    axes.plot(rates, single, color="black", linestyle="--", linewidth=1.3, label=label)
    bound = largest_tpr(mechanism, rates, delta=delta)
    axes.plot(rates, bound, color=_BLUE, linewidth=2, label="bound by the whole profile")
    axes.fill_between(rates, bound, 1, color="#E4E4E4", linewidth=0)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="guessing")
    axes.set(xlabel="False positive rate", ylabel="True positive rate", aspect="equal")
    axes.set(xlim=(0, 1), ylim=(0, 1), title="What no test of membership can exceed")
    axes.legend(loc="lower right", frameon=False)
    return _png(figure, axes)


def _new_figure() -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
