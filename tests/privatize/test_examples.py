"""The examples in docstrings run and give what they say, and the public names have one."""

import doctest
import importlib
import pkgutil

import pytest

from dpjax import privatize

PUBLIC = [
    "AdaptiveClipping",
    "AutomaticClipping",
    "FlatClipping",
    "PerGroupClipping",
    "PoissonSampler",
    "RunKey",
    "clipped_grad",
    "explain",
    "gaussian_noise",
    "noisy_mean",
    "private_gradient",
    "unit_loss",
]


def modules_with_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = [m.name for m in pkgutil.walk_packages(privatize.__path__, "dpjax.privatize.")]
    return [n for n in names if any(t.examples for t in finder.find(importlib.import_module(n)))]


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name):
    assert ">>> " in getattr(privatize, name).__doc__
    assert name in privatize.__all__
