"""The loop of the guide runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "federated.md"


@pytest.mark.slow
def test_the_loop_of_the_guide_runs():
    (block,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
        if "client_loss" in block
    )
    names = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert np.isfinite(names["w"]).all()
