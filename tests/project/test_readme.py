"""What README shows runs as pasted, on a machine where `make install` was done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder, and an environment whose commands and packages are those of this test."""
    folder = tmp_path_factory.mktemp("reader")
    paths = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    packages = (str(ROOT), str(ROOT / "accounting"))
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join(packages),
        # As readers run it.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "False",
    }

    def run(*command):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return folder, run


def test_the_example_and_the_commands_run_as_pasted(reader):
    folder, run = reader
    (example,) = blocks("python")
    install, *commands = blocks("sh")
    assert install.startswith("pip install")
    printed = run(sys.executable, "-c", example)
    accuracy, epsilon, auc = map(float, re.findall(r"=(\d\.\d{3})", printed))
    assert epsilon <= 3.0
    # Both are printed in README, of one run: the noise of another one differs.
    assert accuracy > 0.65
    assert 0.4 < auc < 0.65
    assert any("dpjax_accounting verify" in command for command in commands)
    for command in commands:
        run("bash", "-ec", command)
    first, second = (
        json.loads((folder / "runs" / name / "privacy.json").read_text())
        for name in ("first", "second")
    )
    assert first["guarantee"] == second["guarantee"]
    assert first["mechanism"] == second["mechanism"]


def test_it_is_short():
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 700


def test_installation_comes_first():
    headings = re.findall(r"^## (.+)$", README, flags=re.MULTILINE)
    assert headings[0] == "Install"
