"""A run that was left after four steps, and what it comes to when it is whole."""

import shutil

import pytest

import dpjax
from tests.training.fitting.stored.small_fit import KEY, QUIET, leave_after, make_options


@pytest.fixture(scope="session")
def whole():
    """The parameters of the run without a folder."""
    return dpjax.fit(**make_options(run_key=KEY)).run(QUIET).params["w"].tolist()


@pytest.fixture(scope="session")
def left_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("left") / "run"
    leave_after(4, folder)
    return folder


@pytest.fixture
def left(left_run, tmp_path):
    """The folder of a run that was left after four steps."""
    shutil.copytree(left_run, tmp_path / "run")
    return tmp_path / "run"
