"""The HTML page of a privacy report with its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpjax_accounting.mechanisms.mechanism import mechanism_from_dict
from dpjax_accounting.mechanisms.stepwise import Stepwise, num_steps_of, stopped_after
from dpjax_accounting.report.pictures import epsilon_picture, tradeoff_picture
from dpjax_accounting.report.render import render_html


def report_page(report: Mapping[str, Any]) -> str:
    """Returns a report that verifies as an HTML page, with ε by step and the trade-off curve.

    Raises:
        TypeError, ValueError: if the mechanism cannot be read or accounted for.
    """
    if not report["private"]:
        return render_html(report)
    mechanism = mechanism_from_dict(report["mechanism"])
    delta, steps = report["guarantee"]["delta"], report["steps_completed"]
    pictures = {}
    if isinstance(mechanism, Stepwise) and num_steps_of(mechanism):
        pictures["ε after each step"] = epsilon_picture(mechanism, delta, steps)
    done = mechanism if steps is None else stopped_after(mechanism, steps)
    pictures["The trade-off curve: to the left of and above it lies no test of membership"] = (
        tradeoff_picture(done, delta)
    )
    return render_html(report, pictures)
