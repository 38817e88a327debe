"""Which ways of sampling go with which promises: the rest is refused with the reason."""

import pytest

from dpjax.finetuning import FinetuneConfig
from dpjax.finetuning.config.sampling import MECHANISM_OF

BASE = {"model": "m", "train_data": "t.csv", "eval_data": "e.csv", "output_dir": "o"}
CORRELATED = {"noise": "banded", "bands": 4, "neighboring": "zero_out"}


def config(privacy, **changes):
    promise = {} if changes.get("non_private") else {"target_epsilon": 3.0}
    return FinetuneConfig.from_options(BASE | {"privacy": promise | privacy} | changes)


@pytest.mark.parametrize("sampling", MECHANISM_OF)
def test_the_relations_are_those_of_the_accountant(sampling):
    for neighboring in ("add_or_remove_one", "zero_out", "replace_one"):
        options = {"sampling": sampling, "neighboring": neighboring}
        if neighboring in MECHANISM_OF[sampling].relations:
            assert config(options).privacy.sampling == sampling
        else:
            with pytest.raises(ValueError, match=f"{neighboring} is not accounted for.*{sampling}"):
                config(options)
    # Without privacy there are no neighbours.
    assert config({"sampling": sampling}, non_private=True).privacy.sampling == sampling


@pytest.mark.parametrize(
    ("privacy", "changes", "words"),
    [
        (
            {"sampling": "fixed-size"},
            {},
            "another unit in place of the one that is absent. Give privacy.neighboring=zero_out or",
        ),
        ({"sampling": "shuffled"}, {}, "moves other units from one batch to the next"),
        ({"sampling": "truncated-poisson"}, {}, "whether a batch overflows depends on the number"),
        (
            {"sampling": "random-allocation", "neighboring": "replace_one"},
            {},
            "a bound is known for a unit that is present or not",
        ),
        ({"neighboring": "zero_out"}, {"non_private": True}, "leave out privacy.neighboring=zero"),
        (
            {"sampling": "fixed-size", "neighboring": "zero_out"},
            {"audit": {"num_canaries": 100}},
            "leaves records out, which privacy.sampling=fixed-size cannot: another unit would",
        ),
        (
            {"sampling": "shuffled"},
            {"audit": {"hold_out": 0.5}, "non_private": True},
            "from batch to batch.*sampling=poisson or random-allocation or full-batch, or no audit",
        ),
        (
            {"sampling": "truncated-poisson", "neighboring": "replace_one"},
            {"audit": {"hold_out": 0.5}},
            "depends on how many are drawn",
        ),
        (
            {"neighboring": "replace_one"},
            {"audit": {"hold_out": 0.5}},
            "an audit adds or removes records",
        ),
        (
            {"sampling": "random-allocation", "ledger": "data.ledger"},
            {},
            "privacy.ledger=data.ledger adds up all runs",
        ),
        (
            {"noise": "banded", "bands": 4},
            {},
            "is not accounted for with privacy.noise=banded: groups of equal size move other units",
        ),
        (CORRELATED | {"bands": None}, {}, "give one of at least 2, such as privacy.bands=8"),
        ({"bands": 4}, {}, "privacy.bands=4 is for privacy.noise=banded, got privacy.noise=ind"),
        (CORRELATED | {"bands": 1}, {}, "privacy.bands must be at least 2, got 1"),
        (CORRELATED | {"sampling": "shuffled"}, {}, "groups that take turns, got privacy.sampling"),
        (
            CORRELATED,
            {"audit": {"hold_out": 0.5}},
            "which privacy.noise=banded cannot: other units would move from group to group",
        ),
        (
            CORRELATED,
            {"training": {"optimizer": "adam-bc"}},
            "takes off the variance that independent noise has",
        ),
        (
            CORRELATED,
            {"train_data": {"path": "t.csv", "owner_column": "author"}},
            "needs privacy.noise=independent, got banded: groups that take turns",
        ),
        (
            {"noise": "banded", "bands": 4},
            {"non_private": True},
            "non_private=True adds no noise: leave out privacy.noise=banded",
        ),
        (
            {"sampling": "full-batch"},
            {"training": {"expected_batch_size": 64}},
            "expected_batch_size=64 has no meaning with privacy.sampling=full-batch",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(privacy, changes, words):
    with pytest.raises(ValueError, match=words):
        config(privacy, **changes)


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        ({"sampling": "poison"}, "Did you mean 'poisson'"),
        ({"sampling": "fixed_size"}, "Did you mean 'fixed-size'"),
        ({"noise": "band"}, "Did you mean 'banded'"),
        ({"neighboring": "zero-out"}, "Did you mean 'zero_out'"),
    ],
)
def test_misspelt_names_are_told_apart(privacy, words):
    with pytest.raises(TypeError, match=words):
        config(privacy)
