"""Bars of the ratios of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_bars(
    rows: Sequence[dict[str, Any]],
    keys: Sequence[str],
    ratios: Sequence[str],
    *,
    title: str,
    path: Path,
) -> None:
    """Draws one field of bars for each ratio that a row has, with a line at 1.

    Args:
        rows: what was measured.
        keys: the entries that name a row.
        ratios: the entries that are drawn.
        title: of the picture.
        path: where it is written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {id(row): ", ".join(str(row[key]) for key in keys) for row in rows}
    drawn = [
        (ratio, {names[id(row)]: row[ratio] for row in rows if row.get(ratio) is not None})
        for ratio in ratios
    ]
    fields = [(ratio, values) for ratio, values in drawn if values]
    height = 1 + 0.26 * max(len(values) for _, values in fields)
    figure = Figure(figsize=(5.5 * len(fields), height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(fields), squeeze=False)[0]
    for axes, (ratio, values) in zip(all_axes, fields, strict=True):
        bars = axes.barh(list(values), list(values.values()), color="#0072B2")
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_xlabel(ratio.replace("_", " "))
        axes.margins(x=0.2)
        axes.invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path)
