"""Noise against batch size, as a PNG file."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from dpjax.finetuning.planning.forecast import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito 2008: told apart with every common kind of colour blindness.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#595959"
_DPI = 150


def plot_noise(forecast: Forecast, path: str | PathLike[str]) -> None:
    """Writes a picture of σ / B against B, on logarithmic axes, as a PNG.

    Args:
        forecast: of a private run.
        path: of the file; its folder must exist.

    Raises:
        ValueError: the run has no noise.
        FileNotFoundError: the folder does not exist.

    Example:
        >>> from pathlib import Path
        >>> import dpjax
        >>> from dpjax.finetuning import plot_noise
        >>> forecast = dpjax.plan(num_units=4000, privacy={"noise_multiplier": 1.0})
        >>> plot_noise(forecast, "noise.png")
        >>> Path("noise.png").exists()
        True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if forecast.asked is None:
        raise ValueError("a run without privacy has no noise to draw: leave out non_private.")
    figure = Figure(figsize=(6.4, 4.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw(axes, forecast)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("Expected batch size B")
    axes.set_ylabel("Noise on the mean gradient, per coordinate, over C:  σ / B")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)


def _draw(axes: Axes, forecast: Forecast) -> None:
    asked, full = forecast.asked, forecast.full_batch
    assert asked is not None
    if forecast.at_same_steps and full is not None:
        same = [*forecast.at_same_steps, full]
        sizes = [choice.expected_batch_size for choice in same]
        noise = [choice.relative_noise for choice in same]
        label = f"at {asked.num_steps} steps"
        axes.plot(sizes, noise, color=_BLUE, marker="o", markersize=4, label=label)
    if forecast.choices != forecast.at_same_steps:
        sizes = [choice.expected_batch_size for choice in forecast.choices]
        noise = [choice.relative_noise for choice in forecast.choices]
        label = "at the same number of epochs"
        axes.plot(sizes, noise, color=_ORANGE, marker="s", markersize=4, label=label)
    if full is not None:
        label = "all records in each step"
        axes.axhline(full.relative_noise, color=_GREY, linestyle=":", label=label)
    axes.plot(
        asked.expected_batch_size,
        asked.relative_noise,
        color="black",
        marker="*",
        markersize=12,
        linestyle="none",
        label=f"this run: B = {asked.expected_batch_size}",
    )
    if forecast.flat_from is not None:
        # Not as high as the legend.
        line = {"color": _GREY, "linestyle": "--", "label": "hardly falls beyond"}
        axes.axvline(forecast.flat_from, ymax=0.65, **line)
