"""Bytes of a device: told, known by its kind, or of the machine."""

import jax
import pytest

from dpjax.privatize import device_memory, memory_stats
from dpjax.privatize.devices import device_memory as module


class Device:
    """A device as JAX shows it."""

    platform = "tpu"

    def __init__(self, kind, stats=None):
        self.device_kind, self.stats = kind, stats

    def memory_stats(self):
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


# What the runtime says of the devices of a topology.
NOT_HERE = jax.errors.JaxRuntimeError(
    "INVALID_ARGUMENT: MemoryStats is only supported for addressable PjRt devices."
)


def test_what_the_device_tells_comes_first():
    assert device_memory(Device("TPU v6 lite", {"bytes_limit": 1000})) == 1000


@pytest.mark.parametrize(
    ("kind", "gib"), [("TPU v5 lite", 15.75), ("TPU v5", 95.74), ("TPU v6 lite", 31.25)]
)
@pytest.mark.parametrize("stats", [None, {"bytes_in_use": 3}, NOT_HERE])
def test_devices_that_do_not_tell_are_known_by_their_kind(kind, gib, stats):
    assert device_memory(Device(kind, stats)) == int(gib * 2**30)


def test_an_unknown_kind_is_not_guessed():
    assert device_memory(Device("TPU v99")) is None


def test_other_errors_are_not_swallowed():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory_stats(Device("TPU v5", jax.errors.JaxRuntimeError("INTERNAL: it is broken")))


def test_a_cpu_has_the_memory_of_the_machine_or_of_its_control_group(monkeypatch):
    (*_, device) = devices = jax.devices("cpu")
    whole = device_memory(device)
    assert whole > 1e8 / len(devices)
    monkeypatch.setattr(module, "_limit_in", lambda path: 90_000_000)
    assert device_memory(device) == 90_000_000 // len(devices)
