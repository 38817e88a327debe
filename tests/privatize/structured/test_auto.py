"""What `auto` takes: by the memory of the device, and the examples that are on it."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import dpjax
from benchmarks.support.decoder import DecoderSize, decoder_loss
from dpjax.privatize import clipped_grad
from dpjax.privatize.devices.room import Room, devices_of_rows
from dpjax.privatize.structured.costs.choice import AUTO_SHARE, fastest_that_fits
from dpjax.privatize.structured.costs.cost import StrategyCost

V6E, CPU = int(31.25 * 2**30), 24 * 10**9
SMALL = DecoderSize(
    num_layers=4, hidden_size=256, vocab_size=8192, head_size=64, batch_size=16, length=128
)
GPT2 = DecoderSize(
    num_layers=12, hidden_size=768, vocab_size=50257, head_size=64, batch_size=32, length=256
)


def explain(size, device_memory, batch_size, dtype="float32", chunk=None, sharding=None):
    loss = decoder_loss(
        heads=size.num_heads,
        rematerialise=True,
        compute_dtype=jnp.dtype(dtype),
        vocab_chunk=chunk,
    )
    batch = jax.ShapeDtypeStruct((batch_size, size.length), jnp.int32, sharding=sharding)
    params = jax.eval_shape(size.draw_params)
    return dpjax.explain(loss, params, batch, device_memory=device_memory)


@pytest.mark.parametrize(
    ("size", "device_memory", "batch_size", "dtype", "chunk", "strategy"),
    [
        # Measured: one_backward 0.9 to 1.05 of the ordinary time, two_backwards 1.4 to 1.6.
        (SMALL, CPU, 16, "float32", None, "one_backward"),
        (SMALL, CPU, 4, "float32", None, "one_backward"),
        # one_backward needs five times the memory of the ordinary step, two_backwards 1.06.
        (GPT2, V6E, 32, "bfloat16", 4096, "two_backwards"),
        (GPT2, CPU, 32, "float32", 4096, "two_backwards"),
        (GPT2, CPU, 32, "float32", None, "two_backwards"),
    ],
)
def test_shapes_of_the_benchmark(size, device_memory, batch_size, dtype, chunk, strategy):
    assert explain(size, device_memory, batch_size, dtype, chunk).choice == strategy


def test_chunks_help_two_backwards_and_bytes_count():
    whole, chunked = (explain(GPT2, V6E, 32, "bfloat16", chunk).auto for chunk in (None, 4096))
    logits = 32 * 255 * 50257 * 2
    saved = whole.bytes_of("two_backwards") - chunked.bytes_of("two_backwards")
    assert 0.8 * logits < saved
    assert chunked.bytes_of("one_backward") > whole.bytes_of("one_backward")
    in_float32 = explain(GPT2, V6E, 32, "float32", 4096).auto
    assert chunked.bytes_of("one_backward") < 0.8 * in_float32.bytes_of("one_backward")


def test_the_budget_is_a_share_of_the_device():
    needed = explain(SMALL, CPU, 16).auto.bytes_of("one_backward")
    assert explain(SMALL, AUTO_SHARE * needed, 16).choice == "one_backward"
    assert explain(SMALL, AUTO_SHARE * needed - AUTO_SHARE, 16).choice == "two_backwards"


def test_examples_are_those_of_one_device():
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "tensor"))
    for spec, devices in (("data", 4), (("data", "tensor"), 8), (None, 1)):
        sharding = NamedSharding(mesh, PartitionSpec(spec))
        found = explain(GPT2, V6E, 128, sharding=sharding).auto
        assert found.num_examples == 128 // devices


def test_rows_that_some_arrays_do_not_divide_are_not_divided():
    mesh = jax.sharding.AbstractMesh((4,), ("data",))
    divided = NamedSharding(mesh, PartitionSpec("data"))
    rows = {
        "a": jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=divided),
        "b": jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    assert devices_of_rows(rows) == 1
    assert devices_of_rows(rows["a"]) == 4
    assert devices_of_rows(jnp.ones(3)) == 1


def test_rooms_count_all_calls_and_the_rows_of_a_device():
    room = Room(num_vmapped=3, num_devices=4)
    assert room.examples_at_once(8) == 6
    # Three rows cannot be shared by four devices.
    assert room.examples_at_once(3) == 9


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_what_a_call_counts(caplog, kind):
    """One device is a mesh too; the number that is given is divided by."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(kind,))
    batch = jax.device_put(jnp.ones((8, 3)), NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(jnp.ones(3), NamedSharding(mesh, PartitionSpec()))
    clipped = clipped_grad(
        lambda p, x: jnp.sum(p * x), clip_norm=1.0, num_devices=4, device_memory=16 * 10**9
    )
    with caplog.at_level(logging.INFO, logger="dpjax"):
        jax.eval_shape(clipped, params, batch)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "ordinary step with 2 examples on a device" in said
    assert "16th of the device's 16 GB" in said


@pytest.mark.parametrize(
    ("materialize", "one_backward", "most_bytes", "strategy"),
    [
        # As fast and as large, by estimate: compiled, one_backward needs less.
        ((1000, 100), (1000, 100), 1000, "one_backward"),
        ((1000, 100), (1090, 109), 1000, "one_backward"),
        # As fast: the smaller one.
        ((1000, 100), (1000, 112), 1000, "materialize"),
        ((1000, 112), (1090, 100), 1000, "one_backward"),
        # No tie: the faster one of those that fit.
        ((1000, 100), (1120, 50), 1000, "materialize"),
        ((1000, 100), (1120, 50), 99, "one_backward"),
        # Nothing fits: the smallest.
        ((1000, 100), (1000, 100), 9, "two_backwards"),
    ],
)
def test_near_ties_are_decided_by_memory(materialize, one_backward, most_bytes, strategy):
    costs = {
        "non_private": StrategyCost(900, 0),
        "materialize": StrategyCost(*materialize),
        "one_backward": StrategyCost(*one_backward),
        "two_backwards": StrategyCost(1500, 10),
    }
    assert fastest_that_fits(costs, most_bytes) == strategy


def test_adapters_take_one_backward():
    """All their products are kept, so that its estimates are equal to those of materialize."""

    def loss(adapter, frozen, x):
        return jnp.sum(jnp.tanh(x @ frozen + x @ adapter["a"] @ adapter["b"]))

    adapter = {"a": jnp.zeros((256, 16)), "b": jnp.zeros((16, 256))}
    x, frozen = jnp.zeros((8, 128, 256)), jnp.zeros((256, 256))
    found = dpjax.explain(lambda p, x, frozen: loss(p, frozen, x), adapter, x, frozen)
    assert found.auto.bytes_of("materialize") == found.auto.bytes_of("one_backward")
    assert found.choice == "one_backward"


def test_explain_says_why():
    found = explain(GPT2, V6E, 32, "bfloat16", 4096)
    said = " ".join(str(found).split())
    assert "strategy=auto: two_backwards" in said
    assert "one_backward 4.26 GB and 1.11 of its time" in said
    assert "16th of the device's 33.6 GB may be used for it, 2.1 GB" in said


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device_memory": 0}, ValueError, "device_memory must be at least 1 byte, got 0"),
        ({"device_memory": 1e9}, TypeError, "device_memory must be a whole number of bytes"),
        ({"device_memory": True}, TypeError, "device_memory must be a whole number of bytes"),
        ({"num_devices": 0}, ValueError, "num_devices must be at least 1, got 0"),
    ],
)
def test_misuse(options, error, message):
    with pytest.raises(error, match=message):
        clipped_grad(lambda p, x: jnp.sum(p * x), clip_norm=1.0, **options)


@pytest.mark.parametrize(("dtype", "num_traces"), [(jnp.float32, 1), (jnp.bfloat16, 2)])
def test_an_ordinary_loss_is_traced_once(dtype, num_traces):
    traced = []

    def loss(params, x):
        traced.append(x)
        return jnp.sum(params * x).astype(dtype)

    dpjax.explain(loss, jnp.ones(3), jnp.ones((4, 3)))
    assert len(traced) == num_traces
