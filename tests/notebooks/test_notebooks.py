"""Every notebook runs, and prints and draws what its kept outputs say."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")

_SPEC = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(execute)


def numbers(text):
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_repeats_its_outputs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    shown = False
    for cell, printed, pictures in execute.run_notebook(notebook, path.name):
        kept = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert _NUMBER.sub("#", printed) == _NUMBER.sub("#", kept)
        # Other processors round otherwise, which training enlarges.
        assert numbers(printed) == pytest.approx(numbers(kept), rel=0.05, abs=0.03)
        assert len(pictures) == sum("data" in output for output in cell["outputs"])
        shown |= bool(kept)
    assert shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_have_no_paths_of_a_machine(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert not re.search(r"/(home|tmp|root|work|Users)/|records/s", printed)


def test_there_are_notebooks():
    assert NOTEBOOKS
