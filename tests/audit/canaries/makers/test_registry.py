"""The registry: short names, and ingredients that fit."""

import inspect

import pytest

from dpjax.audit.canaries.makers import (
    high_temperature,
    mislabelled,
    new_token,
    pairs,
    random_tokens,
)
from dpjax.audit.canaries.makers.base import Canaries
from dpjax.audit.canaries.makers.registry import CANARY_KINDS, make_canaries
from dpjax.data import Records, Texts
from dpjax.privatize import RunKey

KEY = RunKey.from_seed(1)
HELD_OUT = Records(["good", "bad"], ["yes", "no"])


def test_names_are_those_that_canaries_bear():
    modules = (new_token, random_tokens, high_temperature, mislabelled)
    names = {module.KIND for module in modules} | {random_tokens.LABELLED_KIND}
    names |= {pairs.RANDOM_KIND, pairs.SWAPPED_KIND}
    assert set(CANARY_KINDS) == names


@pytest.mark.parametrize("kind", CANARY_KINDS.values(), ids=list(CANARY_KINDS))
def test_the_registry_knows_the_arguments_of_its_makers(kind):
    parameters = dict(inspect.signature(kind.make).parameters)
    assert list(parameters)[:2] == ["num_canaries", "run_key"]
    empty = inspect.Parameter.empty
    needs = tuple(name for name in list(parameters)[2:] if parameters[name].default is empty)
    takes = tuple(name for name in list(parameters)[2:] if parameters[name].default is not empty)
    assert (needs, takes) == (kind.needs, kind.takes)


def test_canaries_are_made_by_name():
    canaries = make_canaries(
        "mislabelled", 2, run_key=KEY, held_out=HELD_OUT, label_names=("no", "yes")
    )
    assert canaries.kind == "mislabelled" and canaries.ids == (
        "mislabelled-0001",
        "mislabelled-0002",
    )
    assert repr(canaries) == "Canaries(kind='mislabelled', 2 records)"


@pytest.mark.parametrize(
    ("kind", "ingredients", "message"),
    [
        ("mislabeled", {}, "Did you mean 'mislabelled'"),
        ("mislabelled", {"held_out": HELD_OUT}, "need label_names"),
        (
            "mislabelled",
            {"held_out": HELD_OUT, "label_names": ("no", "yes"), "label_name": 1},
            "got 'label_name'. Did you mean 'label_names'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(kind, ingredients, message):
    with pytest.raises(ValueError, match=message):
        make_canaries(kind, 2, run_key=KEY, **ingredients)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"secrets": ("x",)}, "must be as many"), ({"ids": ("a", "a")}, "must be different")],
)
def test_canaries_check_themselves(change, message):
    right = {"kind": "k", "ids": ("a", "b"), "records": Texts(["x", "y"]), "secrets": ("x", "y")}
    with pytest.raises(ValueError, match=message):
        Canaries(**(right | change))
