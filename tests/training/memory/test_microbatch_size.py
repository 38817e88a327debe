"""The search for a microbatch size: it fits, it is nearly the largest, and it compiles little."""

import jax
import pytest

from dpjax.privatize import device_memory
from dpjax.training import StepMemory, largest_microbatch, memory_limit


def affine(fixed, per_record):
    """A step whose memory is affine in the size, and the sizes that were asked for."""
    asked = []

    def memory_of(size):
        asked.append(size)
        return StepMemory(0, fixed, 0, 0, 0, per_record * size, 0, microbatch_size=size)

    return memory_of, asked


@pytest.mark.parametrize("limit", [110, 119, 120, 139, 140, 1000, 1379, 1380, 10**6])
@pytest.mark.parametrize("largest", [1, 2, 3, 64, 100, 128, 1000])
def test_the_largest_power_of_two_that_fits(limit, largest):
    memory_of, asked = affine(fixed=100, per_record=10)
    chosen = largest_microbatch(memory_of, limit, largest)
    fitting = [2**k for k in range(12) if 2**k <= largest and 100 + 10 * 2**k <= limit]
    assert chosen.microbatch_size == max(fitting)
    assert chosen.peak <= limit
    assert len(asked) <= 3


def test_where_the_line_is_wrong_it_still_fits():
    for threshold in (2, 8, 64):

        def memory_of(size, threshold=threshold):
            # Another strategy above a size, as `auto` takes when memory would grow too much.
            per_record = 100 if size < threshold else 10
            return StepMemory(0, 0, 0, 0, 0, per_record * size, 0, microbatch_size=size)

        for limit in (150, 700, 1500, 5000):
            assert largest_microbatch(memory_of, limit, 1024).peak <= limit


def test_not_even_one_record():
    memory_of, asked = affine(fixed=2_000_000_000, per_record=500_000_000)
    with pytest.raises(ValueError, match=r"one record at a time needs 2\.5 GB, and 1 GB may be"):
        largest_microbatch(memory_of, 1_000_000_000, 64)
    assert asked == [64, 1]


def test_the_limit_is_below_what_the_device_has():
    assert memory_limit() == int(0.9 * device_memory(jax.devices()[0]))
    assert memory_limit(given=1000) == 900


def test_an_accelerator_says_what_is_left(monkeypatch):
    class Device:
        platform, device_kind = "gpu", "a GPU"

        def __init__(self, stats):
            self.stats = stats

        def memory_stats(self):
            return self.stats

    monkeypatch.setattr(
        jax, "local_devices", lambda: [Device({"bytes_limit": 1000, "bytes_in_use": 200})]
    )
    assert memory_limit() == 720
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
    with pytest.raises(ValueError, match="a GPU does not tell how much memory it has"):
        memory_limit()
