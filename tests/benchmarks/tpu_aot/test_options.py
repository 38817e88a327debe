"""Options of `tpu_aot` that cannot be, and what the compiler says, in sentences."""

import pytest

from benchmarks.aot.compiled import Refusal, parse_refusal
from benchmarks.aot.configuration import make_configured_steps
from benchmarks.aot.topologies import CHIPS, check_fits, parse_topology
from benchmarks.tpu_aot import Options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lama-3-8b"}, "Did you mean 'llama-3-8b'"),
        ({"topology": "v5x:2x2"}, "must begin with one of v5e, v5p, v6e"),
        ({"topology": "v5e:4"}, "v5e must have 2 sizes, as in v5e:2x2"),
        ({"topology": "v5p:2x2"}, "v5p must have 3 sizes"),
        ({"mesh": "data=8"}, "must use every device of v5e:2x2, got data=8,fsdp=1,tensor=1 of 8"),
        ({"mesh": "dta=4"}, "Did you mean 'data'"),
        ({"batch_size": 6}, "must be a multiple of the 4 devices .* Give 8"),
        ({"model": "tiny", "length": 65}, "length must be at most 64 for tiny, got 65"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_traced(changes, message):
    with pytest.raises(ValueError, match=message):
        make_configured_steps(Options(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ("two_backward",)}, "Did you mean 'two_backwards'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"vocab_chunk": 0}, "vocab_chunk must be at least 1"),
    ],
)
def test_options_check_themselves(changes, message):
    with pytest.raises(ValueError, match=message):
        Options(**changes)


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (59.60G) exceeds available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 59.60G of 15.75G hbm. Exceeded hbm capacity by 43.85G.",
    ],
)
def test_a_refusal_of_the_compiler_becomes_a_sentence(message):
    assert str(parse_refusal(message)) == (
        "does not fit: the compiler needs 64 GB on each device, and 16.9 GB are available"
    )


def test_another_error_is_no_refusal():
    assert parse_refusal("INTERNAL: (59.60G) exceeds available HBM (15.75G)") is None
    assert parse_refusal("RESOURCE_EXHAUSTED: registers") is None


def test_topologies_have_their_numbers_of_chips():
    for text, number in {"v5e:16x16": 256, "v5p:2x2x1": 4, "v6e:2x4": 8}.items():
        chip, counted = parse_topology(text)
        assert (chip, counted) == (CHIPS[text[:3]], number)
    check_fits({"data": 2, "fsdp": 4, "tensor": 1}, "v6e:2x4")
    assert Refusal(2, 1).needed == 2
