"""What a hash of records, arrays and traced functions sees, and what it does not."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import DatasetIdentity

from dpjax.training.fitting.stored.fingerprints import (
    first_record,
    hash_of_arrays,
    hash_of_trace,
    identify_records,
)

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_the_ledger_knows_the_records_and_a_resumption_their_order():
    identity, ordered = identify_records({"x": X}, 4, "record")
    turned, other = identify_records({"x": X[::-1].copy()}, 4, "record")
    assert identity == turned and isinstance(identity, DatasetIdentity) and ordered != other
    assert identify_records({"x": jnp.asarray(X)}, 4, "record") == (identity, ordered)
    for changed in ({"y": X}, {"x": X.astype(np.float64)}, {"x": X + 1}):
        assert identify_records(changed, 4, "record")[0] != identity
    assert first_record({"x": X, "n": np.arange(4)})["n"].shape == ()


def test_arrays_are_hashed_with_names_and_dtypes():
    tree = {"a": jnp.zeros(2), "key": jax.random.key(1)}
    assert hash_of_arrays(tree) == hash_of_arrays(dict(tree))
    changes = ({"a": jnp.zeros((2, 1))}, {"a": jnp.zeros(2, int)}, {"key": jax.random.key(2)})
    assert len({hash_of_arrays(tree | change) for change in changes} | {hash_of_arrays(tree)}) == 4


def scaled(factor, where=jnp.tanh):
    weight = jnp.full(3, factor)

    def loss(params, record):
        return jax.jit(lambda z: jnp.sum(where(z * weight)))(params * record)

    return loss


OTHERS = {
    "constant": scaled(3.0),
    "operation": scaled(2.0, jnp.sin),
    "number": lambda p, r: jnp.sum(p * r) ** 3,
    "order": lambda p, r: jnp.sum(p - r),
    "branch": lambda p, r: jax.lax.cond(p[0] > 0, lambda: p[1], lambda: r[1]),
}
TWINS = {
    "number": lambda p, r: jnp.sum(p * r) ** 2,
    "order": lambda p, r: jnp.sum(r - p),
    "branch": lambda p, r: jax.lax.cond(p[0] > 0, lambda: r[1], lambda: p[1]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_have_other_hashes(name):
    examples = jnp.ones(3), jax.ShapeDtypeStruct((3,), jnp.float32)
    one, other = TWINS.get(name, scaled(2.0)), OTHERS[name]
    assert hash_of_trace(one, *examples) == hash_of_trace(one, *examples)
    assert hash_of_trace(one, *examples) != hash_of_trace(other, *examples)


CODE = """
import jax, jax.numpy as jnp, optax
from dpjax.training.fitting.stored.fingerprints import hash_of_trace
def loss(w, x):
    hidden = jax.nn.relu(jax.nn.gelu(w * x))
    mask = jax.random.bernoulli(jax.random.key(0), 0.5, w.shape)
    last, _ = jax.lax.scan(lambda c, h: (c + h, c), 0.0, jnp.where(mask, hidden, jax.nn.silu(x)))
    return jax.checkpoint(lambda z: jnp.log1p(z ** 2))(last) + jnp.linalg.norm(w[jnp.array([1])])
w = jnp.ones(3)
adam = optax.adamw(optax.cosine_decay_schedule(0.1, 9))
print(hash_of_trace(loss, w, w), hash_of_trace(adam.update, w, adam.init(w), w))
"""


@pytest.mark.slow
def test_another_process_has_the_same_hashes():
    """Addresses, and orders that depend on hash seeds, are not in them."""
    said = {
        subprocess.run(
            [sys.executable, "-c", CODE],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
