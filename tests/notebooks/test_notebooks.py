"""Every notebook runs, and prints what its kept outputs say."""

import contextlib
import io
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_repeats_its_outputs(path):
    names = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{path.name}:{cell['id']}", "exec"), names)
        kept = "".join("".join(output["text"]) for output in cell["outputs"])
        assert printed.getvalue() == kept


def test_there_are_notebooks():
    assert NOTEBOOKS
