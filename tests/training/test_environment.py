"""The commit and the devices that a report names."""

import subprocess

import jax
import pytest

from dpjax.training import environment as module
from dpjax.training.environment import describe_environment, git_state

UNKNOWN = {"git_commit": None, "uncommitted_changes": None}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one commit, of a.py, and without the user's configuration."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "a.py").write_text("1\n")
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "a.py"], [*author, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_the_commit_of_a_checkout(checkout):
    head = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert git_state(checkout / "a.py") == {"git_commit": head, "uncommitted_changes": False}
    (checkout / "a.py").write_text("2\n")
    assert git_state(checkout / "a.py") == {"git_commit": head, "uncommitted_changes": True}


def test_a_copy_installed_into_somebody_elses_checkout_has_none(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "b.py").write_text("")
    assert git_state(checkout / ".venv" / "b.py") == UNKNOWN


def test_without_checkout_or_git_it_is_unknown(tmp_path, checkout, monkeypatch):
    assert git_state(tmp_path.parent / "b.py") == UNKNOWN
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout / "a.py") == UNKNOWN


def test_devices_are_counted_by_kind(monkeypatch):
    class Device:
        def __init__(self, kind):
            self.device_kind = kind

    monkeypatch.setattr(module.jax, "devices", lambda: [Device("B"), Device("A"), Device("B")])
    describe_environment.cache_clear()
    found = describe_environment()["devices"]
    describe_environment.cache_clear()
    monkeypatch.undo()
    assert found == "1 × A, 2 × B"
    assert describe_environment()["devices"].endswith(jax.devices()[0].device_kind)
