"""The mechanism description: checks, names, conversion, and the package's imports."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import dpjax_accounting
import numpy as np
import pytest
from dpjax_accounting import DPSGD, mechanism_from_dict

from tests.support.mechanisms import check_bad_steps_are_refused, dpsgd

VALID = {
    "num_units": 1000,
    "expected_batch_size": 100.0,
    "noise_multiplier": 2.0,
    "num_steps": 50,
    "sampling": "poisson",
    "unit": "record",
    "neighboring": "add_or_remove_one",
}


def printed_by(code):
    """What a new process prints that finds the accountant and nothing else of this project."""
    package = pathlib.Path(dpjax_accounting.__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_loads_neither_jax_nor_the_trainer():
    code = (
        "import sys, dpjax_accounting as a;"
        "a.default_delta(5);"
        "run = a.calibrate_noise(1.0, 1e-5, num_units=9, expected_batch_size=9, num_steps=3);"
        "run.epsilon(1e-5);"
        "print(sorted({'jax', 'jaxlib', 'flax', 'dpjax'} & set(sys.modules)))"
    )
    assert printed_by(code) == "[]"


def test_import_leaves_the_slow_libraries_for_later():
    code = (
        "import sys, dpjax_accounting; print(sorted({'scipy', 'dp_accounting'} & set(sys.modules)))"
    )
    assert printed_by(code) == "[]"


def test_public_names():
    assert len(set(dpjax_accounting.__all__)) == len(dpjax_accounting.__all__)
    assert all(hasattr(dpjax_accounting, name) for name in dpjax_accounting.__all__)


def test_sampling_probability():
    assert dpsgd(67349, 1024, 0.8, 200).sampling_probability == 1024 / 67349
    assert dpsgd(10, 10, 0.8, 200).sampling_probability == 1.0


def test_fields_are_frozen_and_comparable():
    mechanism = DPSGD(**VALID)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mechanism.num_steps = 3
    assert mechanism == DPSGD(**VALID)
    assert hash(mechanism) == hash(DPSGD(**VALID))


def test_numpy_numbers_become_python_numbers():
    mechanism = dpsgd(np.int64(1000), np.int32(100), np.float32(0.5), np.uint8(50))
    values = [mechanism.num_units, mechanism.expected_batch_size]
    values += [mechanism.noise_multiplier, mechanism.num_steps]
    assert [type(value) for value in values] == [int, float, float, int]
    assert values == [1000, 100.0, 0.5, 50]


@pytest.mark.parametrize(
    ("field", "value", "error", "words"),
    [
        ("num_units", 0, ValueError, "num_units must be at least 1; got 0"),
        ("num_units", 10.0, TypeError, "num_units must be an integer; got 10.0"),
        ("num_units", True, TypeError, "num_units must be an integer; got True"),
        ("expected_batch_size", 0, ValueError, "expected_batch_size must be greater than 0"),
        ("expected_batch_size", -3, ValueError, "expected_batch_size must be greater than 0"),
        ("expected_batch_size", True, TypeError, "expected_batch_size must be a number; got True"),
        ("expected_batch_size", float("nan"), ValueError, "expected_batch_size must be finite"),
        (
            "expected_batch_size",
            1001,
            ValueError,
            "expected_batch_size=1001 is larger than the data, which has num_units=1000",
        ),
        ("noise_multiplier", 0.0, ValueError, "noise_multiplier must be greater than 0"),
        ("noise_multiplier", -1.0, ValueError, "noise_multiplier must be greater than 0; got -1"),
        ("noise_multiplier", float("inf"), ValueError, "noise_multiplier must be finite; got inf"),
        ("noise_multiplier", "1", TypeError, "noise_multiplier must be a number; got '1'"),
        ("noise_multiplier", None, TypeError, "noise_multiplier must be a number; got None"),
        ("num_steps", -1, ValueError, "num_steps must be at least 0; got -1"),
        ("num_steps", 1.5, TypeError, "num_steps must be an integer"),
        ("num_steps", np.True_, TypeError, "num_steps must be an integer"),
        ("sampling", "poison", ValueError, "Did you mean 'poisson'. Supported: 'poisson'"),
        ("sampling", "shuffle", ValueError, "sampling='shuffle' is not supported: no bound"),
        ("sampling", "fixed_size", ValueError, "not supported: batches of a fixed size"),
        ("sampling", "truncated_poisson", ValueError, "not supported: the effect of dropping"),
        ("sampling", 3, TypeError, "sampling must be a string; got 3"),
        ("unit", "records", ValueError, "Did you mean 'record'"),
        ("unit", "user", ValueError, "unit='user' is not supported: .* not an epsilon for users"),
        ("unit", "xyz", ValueError, "unit='xyz' is not known. Supported: 'record'"),
        (
            "neighboring",
            "add_or_remove",
            ValueError,
            "neighboring='add_or_remove' is not known. Did you mean 'add_or_remove_one'",
        ),
        ("neighboring", "zero_one", ValueError, "Did you mean 'zero_out'"),
    ],
)
def test_refused_fields(field, value, error, words):
    with pytest.raises(error, match=words):
        DPSGD(**{**VALID, field: value})


def test_dictionary_round_trip_through_json():
    mechanism = DPSGD(**VALID)
    assert mechanism.to_dict() == {"mechanism": "dpsgd", **VALID}
    assert DPSGD.from_dict(json.loads(json.dumps(mechanism.to_dict()))) == mechanism


def test_reading_back_refuses_unknown_and_missing_names():
    described = DPSGD(**VALID).to_dict()
    for read in (DPSGD.from_dict, mechanism_from_dict):
        with pytest.raises(ValueError, match=r"no field 'noise_multiplyer'\. Did you mean 'noise_"):
            read({**described, "noise_multiplyer": 1.0})
        with pytest.raises(ValueError, match="lacks num_steps, neighboring"):
            read({k: v for k, v in described.items() if k not in ("num_steps", "neighboring")})
        with pytest.raises(ValueError, match="num_steps must be at least 0"):
            read({**described, "num_steps": -1})
    with pytest.raises(ValueError, match=r"mechanism='dpsdg' is not known\. Did you mean 'dpsgd'"):
        mechanism_from_dict({**described, "mechanism": "dpsdg"})
    with pytest.raises(ValueError, match="has no field 'mechanism'"):
        mechanism_from_dict(VALID)
    with pytest.raises(ValueError, match="describes a mechanism 'composition', not 'dpsgd'"):
        DPSGD.from_dict({**described, "mechanism": "composition"})
    with pytest.raises(TypeError, match="must be a dictionary"):
        mechanism_from_dict([])


def test_after():
    mechanism = DPSGD(**VALID)
    assert mechanism.after(50) == mechanism
    assert mechanism.after(np.int64(7)) == DPSGD(**{**VALID, "num_steps": 7})
    assert mechanism.after(0).epsilon(1e-5) == 0.0
    assert mechanism.after(0).delta(1.0) == 0.0
    check_bad_steps_are_refused(mechanism.after, num_steps=50)
