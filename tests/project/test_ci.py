"""The scripts of .ci: the lowest versions as pins, and the Pythons of a machine."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lowest_pins = script("lowest").lowest_pins
pythons = script("pythons")


def test_every_lower_bound_of_the_package_is_a_pin():
    given = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    expected = [re.sub(">=", "==", one) for one in given if not one.startswith("dpjax[")]
    for extra in ("allocation", "bench", "correlated", "gguf", "tensorboard"):
        listed = PROJECT["optional-dependencies"][extra]
        expected += [re.sub(">=", "==", one) for one in listed if not one.startswith("dpjax[")]
    assert sorted(lowest_pins(PROJECT, ["test"])) == sorted(expected)
    for name in ("transformers", "optax", "orbax-checkpoint", "datasets", "jax", "flax"):
        assert sum(pin.startswith(f"{name}==") for pin in expected) == 1


@pytest.mark.parametrize(
    ("requirement", "pin"),
    [
        ("jax>=0.10.2", "jax==0.10.2"),
        ("torch==2.13.0", "torch==2.13.0"),
        ("jax[cuda12] >= 0.10.2", "jax[cuda12]==0.10.2"),
        ("huggingface-hub>=1.5", "huggingface-hub==1.5"),
    ],
)
def test_a_lower_bound_becomes_a_pin(requirement, pin):
    assert lowest_pins({"name": "p", "dependencies": [requirement]}, []) == [pin]


def test_extras_are_followed_and_named_once():
    project = {
        "name": "p",
        "dependencies": ["a>=1"],
        "optional-dependencies": {"x": ["p[y]", "b>=2"], "y": ["b>=2", "c>=3"]},
    }
    assert lowest_pins(project, []) == ["a==1"]
    assert lowest_pins(project, ["x"]) == ["a==1", "b==2", "c==3"]


@pytest.mark.parametrize("requirement", ["a", "a>1", "a<2", "a>=1,<2", "a~=1.0", "a>=1; x == 'y'"])
def test_a_requirement_without_one_lower_bound_is_refused(requirement):
    with pytest.raises(ValueError, match="must have the form name>=version, got"):
        lowest_pins({"name": "p", "dependencies": [requirement]}, [])


def test_an_unknown_extra_is_refused():
    with pytest.raises(ValueError, match=r"extra must be one of .*, got 'tests'"):
        lowest_pins(PROJECT, ["tests"])


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine; returns what puts a Python on it that answers with these words."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))

    def install(path, answer, status=0):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
        file.chmod(0o755)
        return file

    return install


def test_the_usable_pythons_are_found_in_the_path_and_in_pyenv(machine):
    third = machine("pyenv/versions/3.13.0/bin/python3.13", "3 13 0 final cpython")
    first = machine("bin/python3.11", "3 11 7 final cpython")
    machine("pyenv/versions/3.11.9/bin/python3.11", "3 11 9 final cpython")
    second = machine("pyenv/versions/3.9.1/bin/python3.12", "3 12 1 final cpython")
    assert list(pythons.find_pythons().items()) == [
        ((3, 11, 7), first),
        ((3, 12, 1), second),
        ((3, 13, 0), third),
    ]


def test_what_cannot_make_an_environment_is_left_out(machine):
    machine("bin/python3.13", "not installed in pyenv", status=127)
    good = machine("pyenv/versions/3.13.0/bin/python3.13", "3 13 0 final cpython")
    machine("bin/python3.10", "3 10 4 final cpython")
    machine("bin/python3.14", "3 14 0 candidate cpython")
    machine("bin/python3.12", "3 12 0 final pypy")
    machine("bin/python3.13-config", "3 13 9 final cpython")
    machine("bin/python3.13t", "3 13 9 final cpython")
    assert pythons.find_pythons() == {(3, 13, 0): good}


def test_a_machine_without_python_has_none(machine):
    assert pythons.find_pythons() == {}
