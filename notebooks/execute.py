"""Runs notebooks and keeps what their cells print and draw. It needs no Jupyter.

    python notebooks/execute.py [NAME ...]

Each notebook runs in this process and in a folder of its own, which is deleted. Lines that say how
fast a run was are not kept.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
# How fast this machine is, and how much memory it has.
_OF_MACHINE = re.compile(
    r"^(.* records/s |strategy=auto: |compute\.(vocab_chunk|cache_frozen)=auto: |"
    r"(computing )?the frozen part of ).*\n",
    re.MULTILINE,
)


def run_notebook(notebook: dict[str, Any], name: str) -> Iterator[tuple[dict, str, list[bytes]]]:
    """Yields each code cell, once it has run, with what it printed and its pictures as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{name}:{cell['id']}", "exec"), names)
        yield cell, _OF_MACHINE.sub("", printed.getvalue()), take_pictures()


def take_pictures() -> list[bytes]:
    """Returns the open figures as PNG, and closes them."""
    from matplotlib import pyplot

    pictures = []
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, dpi=72, metadata={"Software": None})
        pictures.append(file.getvalue())
    pyplot.close("all")
    return pictures


def outputs_of(printed: str, pictures: list[bytes]) -> list[dict[str, Any]]:
    """Returns what a cell printed and drew in the format of notebooks."""
    outputs: list[dict[str, Any]] = []
    if printed:
        lines = printed.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    for picture in pictures:
        data = {"image/png": base64.b64encode(picture).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return outputs


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, or all, and writes their outputs."""
    paths = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for count, (cell, *shown) in enumerate(run_notebook(notebook, path.name), start=1):
                cell["execution_count"] = count
                cell["outputs"] = outputs_of(*shown)
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
