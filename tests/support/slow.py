"""Marks as slow the cases that only repeat quicker ones in breadth."""

import pytest


def mark_slow(cases, is_slow):
    """Parameters for `pytest.mark.parametrize`, of which some are marked as slow.

    Args:
        cases: values of one argument, or tuples with a value for each of several.
        is_slow: function of the values of a case.
    """
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=[pytest.mark.slow] if is_slow(*row) else []) for row in rows]
