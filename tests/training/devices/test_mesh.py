"""Meshes as they are asked for, and where arrays lie on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P

from dpjax.training import Layout, choose_mesh, parse_mesh, spread

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}


def mesh_of(*names):
    shape = (1,) * len(names)
    return Mesh(np.array(jax.devices()[:1]).reshape(shape), names)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("data=4,fsdp=2,tensor=1", (4, 2, 1)),
        (" tensor=2 , data=4 ", (4, 1, 2)),
        ("fsdp=8", (1, 8, 1)),
    ],
)
def test_axes_in_any_order_and_the_rest_one(text, sizes):
    assert tuple(parse_mesh(text).items()) == tuple(zip(SIZES, sizes, strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("date=8", r"the axes data, fsdp, tensor.*got 'date'.*Did you mean 'data'"),
        ("data=8,data=2", "name an axis once, got data twice"),
        ("data", "a whole number from 1.*got 'data'"),
        ("data=0", "a whole number from 1.*got 'data=0'"),
        ("data=-1", "a whole number from 1"),
        ("data=2.5", "a whole number from 1"),
        ("", "the axes data, fsdp, tensor.*got ''"),
    ],
)
def test_what_is_no_mesh_is_refused(text, words):
    with pytest.raises(ValueError, match=f"compute.mesh must .*{words}"):
        parse_mesh(text, name="compute.mesh")


def choose(mesh, size=8):
    return choose_mesh(mesh, size, size_name="microbatch_size")


def test_one_device_needs_no_mesh():
    for mesh in (None, "data=1", "fsdp=1,tensor=1", mesh_of("tensor"), mesh_of("fsdp", "data")):
        assert choose(mesh) == (None, "")


def test_sizes_that_are_not_the_number_of_devices_are_refused():
    with pytest.raises(ValueError, match=r"every device, got 'data=3' of 3 where there are 1\."):
        choose("data=3")


def test_unknown_axes_of_a_mesh_are_refused():
    with pytest.raises(ValueError, match=r"axes among data, fsdp, tensor, got 'model'"):
        choose(mesh_of("data", "model"))
    with pytest.raises(TypeError, match=r"a jax\.sharding\.Mesh or a string, got 8"):
        choose(8)


@pytest.mark.parametrize(
    ("shape", "options", "spec"),
    [
        ((), {}, P()),
        ((512,), {}, P()),
        ((2**16,), {}, P("fsdp")),
        ((30, 20), {}, P(None, "fsdp")),
        ((30, 18), {}, P()),
        ((512, 2048), {}, P(None, "fsdp")),
        ((512, 2048), {"tensor_axis": -1}, P("fsdp", "tensor")),
        ((512, 2048), {"tensor_axis": -2}, P("tensor", "fsdp")),
        ((512, 2047), {"tensor_axis": -1}, P("fsdp")),
        ((2048,), {"tensor_axis": -1}, P("tensor")),
        ((2048,), {"tensor_axis": -2}, P()),
        ((64, 8, 12), {"first_axis": 1}, P(None, None, "fsdp")),
        ((64, 512), {"first_axis": 1}, P()),
    ],
)
def test_arrays_are_spread_by_their_shape(shape, options, spec):
    assert spread(shape, SIZES, **options) == spec


def abstract_layout(rule=None):
    axes = (AxisType.Auto,) * 3
    return Layout.make(AbstractMesh(tuple(SIZES.values()), tuple(SIZES), axis_types=axes), rule)


def test_optimizer_state_lies_with_its_parameter():
    params = {"a": jax.ShapeDtypeStruct((8, 12), jnp.float32), "b": jnp.zeros(3)}
    layout = abstract_layout(lambda path, shape: P("tensor") if path == "a" else P())
    state = jax.eval_shape(optax.adam(1e-3).init, params)
    where = layout.shardings_of_state(state, params)
    assert where[0].mu["a"].spec == where[0].nu["a"].spec == P("tensor")
    assert where[0].mu["b"].spec == where[0].count.spec == P()


@pytest.mark.parametrize("spec", [P("tensor", None), P("model"), P(None, None, "fsdp")])
def test_a_rule_that_does_not_fit_is_refused(spec):
    layout = abstract_layout(lambda path, shape: spec)
    with pytest.raises(ValueError, match=r"the rule must spread w of shape \(3, 4\) evenly"):
        layout.shardings({"w": jnp.zeros((3, 4))})
