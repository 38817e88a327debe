"""Errors of a federated run name options that `dpjax federated` has."""

import dataclasses
import json
import re

import pytest

from dpjax.basics.option_checks import checks_deferred
from dpjax.federated import FederatedConfig, set_up_federated
from dpjax.federated.option_names import NAMES, in_names_of_command
from dpjax.federated.run_config import FederatedRunConfig
from dpjax.finetuning import FinetuneConfig
from tests.support.owned_records import owned_file


def prepared(options):
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    return set_up_federated(FederatedConfig.from_options(options | paths))


def options_of(kind, prefix=""):
    """Names of all options of a dataclass, with those of its groups."""
    names = set()
    for field in dataclasses.fields(kind):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            with checks_deferred():
                value = field.default_factory()
        inner = dataclasses.is_dataclass(value)
        names |= options_of(type(value), f"{field.name}.") if inner else {prefix + field.name}
    return names


@pytest.fixture
def owned(options, train_file, tmp_path):
    """Options of a run whose file names the clients."""
    names = [f"phone {i % 30}" for i in range(240)]
    options["train_data"] = str(owned_file(train_file, tmp_path / "owned.csv", names))
    options["clients"] = {"column": "author", "cohort_size": 8, "num_rounds": 2}
    return options


# What newcomers write, and what is said.
MISTAKES = (
    ({"clients": {"column": "autor"}}, r"Did you mean clients\.column='author'\?"),
    ({"clients": {"column": "phone"}}, r"no column 'phone'; its columns: .*Set clients\.column\."),
    ({"clients": {"column": "author", "cohort_size": 50}}, r"clients\.cohort_size=50 is more than"),
    ({"clients": {"column": "author", "cohort_size": 0}}, r"clients\.cohort_size must be at least"),
    ({"clients": {"column": "author", "num_rounds": 0}}, r"clients\.num_rounds must be at least 1"),
    ({"clients": {"num_clients": 300}}, r"clients\.num_clients=300 must be at most the 240"),
    ({"eval_data": {"owner_column": "author"}}, r"no column 'author'.*eval_data\.owner_column"),
    ({"eval_data": {"text_column": "texts"}}, r"Did you mean text_column='text'"),
    ({"training": {"max_length": 64}}, r"training\.max_length=64 is more than the 32 positions"),
    ({"privacy": {"noise_multiplier": 1.0, "target_epsilon": 3.0}}, "give one"),
    ({"privacy": {"target_epsilon": -1.0}}, r"privacy\.target_epsilon must be positive"),
    ({"privacy": {"noise_multiplier": 1.0, "delta": 1.5}}, r"privacy\.delta must be between"),
    ({"server": {"optimizer": "adam"}}, r"server\.optimizer must be one of"),
    ({"server": {"learning_rate": 0.0}}, r"server\.learning_rate must be positive"),
    ({"non_private": True}, "drop one or the other"),
    (
        {"audit": {"num_canaries": 10}, "privacy": {"noise_multiplier": 4.0, "ledger": "l"}},
        "ledger",
    ),
    ({"resume": True, "overwrite": True}, "give one of them"),
)


@pytest.mark.parametrize(("changes", "words"), MISTAKES)
def test_mistakes_are_told_in_options_of_the_command(owned, changes, words):
    for name, value in changes.items():
        if name == "eval_data":
            owned[name] = {"path": str(owned[name])} | value
        elif isinstance(value, dict):
            is_whole = name in ("clients", "privacy")
            owned[name] = value if is_whole else owned.get(name, {}) | value
        else:
            owned[name] = value
    with pytest.raises((ValueError, TypeError), match=words) as raised:
        prepared(owned)
    said = str(raised.value)
    for option in options_of(FinetuneConfig) - options_of(FederatedConfig):
        assert not re.search(rf"(?<![\w.]){re.escape(option)}(?!\w)", said)
    assert "owner_column" not in said.replace("eval_data.owner_column", "")


def test_one_client_is_none(owned, train_file, tmp_path):
    owned["train_data"] = str(owned_file(train_file, tmp_path / "one.csv", ["ann"] * 240))
    owned["clients"]["cohort_size"] = 1
    with pytest.raises(ValueError, match=r"the same value in clients\.column='author'"):
        prepared(owned)


def test_every_option_that_is_made_has_the_name_that_it_is_made_of(options):
    paths = {name: str(options[name]) for name in ("model", "output_dir")}
    config = FederatedRunConfig.of(FederatedConfig.from_options(options | paths))
    made, here = config.to_dict(), options_of(FederatedConfig)
    defaults = {field.name: field.default for field in dataclasses.fields(type(config.training))}
    constant = {"schedule", "warmup_fraction"}
    for name, value in made["training"].items():
        if f"training.{name}" not in here and value != defaults[name] and name not in constant:
            assert f"training.{name}" in NAMES, name
    assert set(NAMES.values()) <= here | {"clients.column"}
    # A resumption with other options names what was given, not what was made of it.
    assert list(made)[:2] == ["clients", "server"]
    json.dumps(made)


def test_longer_names_are_left_alone():
    said = "eval_data.owner_column and /data/owner_column.csv and my_owner_column"
    assert in_names_of_command(said) == said
    assert in_names_of_command("give training.optimizer=sgd") == "give server.optimizer=fedavg"


def test_the_generator_reaches_the_run():
    config = FederatedConfig.from_options(
        {
            "model": "any",
            "train_data": "train.csv",
            "eval_data": "dev.csv",
            "output_dir": "run",
            "clients": {"num_clients": 50},
            "privacy": {"target_epsilon": 3.0, "generator": "chacha20"},
        }
    )
    assert FederatedRunConfig.of(config).privacy.generator == "chacha20"
