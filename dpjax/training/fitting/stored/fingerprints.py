"""Hashes of what a run starts from: records, arrays, and functions as JAX traces them."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from dpjax_accounting import DatasetIdentity
from jax.extend import core

from dpjax.basics.typing import PyTree
from dpjax.data import OwnedRecords, RecordsByOwner
from dpjax.training.devices.lead import copy_whole
from dpjax.training.fitting.records import Records, count_records, gives_batches, take_records

_ROWS_AT_ONCE = 1024
# What a function is called changes nothing that it computes.
_UNREAD = ("name", "debug_info")


def identify_records(data: PyTree | Records, num_units: int, unit: str) -> tuple[Any, str]:
    """Returns the identity of the data set for its ledger, and a hash of the records in order.

    A record's content is the bytes of its arrays, with their names, shapes and dtypes. All records
    are read once. A data set of owners with single records is known by the records of each owner.

    Args:
        data: as `fit` takes it.
        num_units: how many records there are.
        unit: what the mechanism protects.
    """
    ordered = hashlib.sha256()
    digests: list[bytes] = []

    def contents() -> Iterator[bytes]:
        for content in contents_of(data, np.arange(num_units)):
            digests.append(hashlib.sha256(content).digest())
            ordered.update(digests[-1])
            yield content

    identity = DatasetIdentity.of(contents(), unit)
    if isinstance(data, OwnedRecords):
        ordered.update(data.owners.fingerprint().encode())
        owners = [data.owners.rows_of(owner) for owner in range(len(data.owners))]
        own = (b"".join(sorted(digests[row] for row in rows)) for rows in owners)
        identity = DatasetIdentity.of(own, unit)
    return identity, ordered.hexdigest()


def comparable(data: PyTree | Records) -> Any:
    """Returns what processes compare of their data: all of it, if it lies in memory.

    Of an object that gives batches it is the number of records: it may read only those it needs.
    Records of owners lie in memory, and are compared with who owns them.
    """
    if not gives_batches(data):
        return data
    if isinstance(data, OwnedRecords | RecordsByOwner) and jax.process_count() > 1:
        return identify_records(data, len(data), "user")[1], data.owners.fingerprint()
    return count_records(data)


def contents_of(data: PyTree | Records, rows: np.ndarray) -> Iterator[bytes]:
    """Yields the bytes of the records at `rows`, `(m,)`: their arrays with names and dtypes."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[start : start + _ROWS_AT_ONCE]
        leaves = jax.tree_util.tree_leaves_with_path(take_records(data, chunk))
        named = [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves]
        head = "".join(f"{name} {leaf.dtype} {leaf.shape[1:]}\n" for name, leaf in named).encode()
        for i in range(len(chunk)):
            yield head + b"".join(leaf[i].tobytes() for _, leaf in named)


def hash_of_arrays(tree: PyTree) -> str:
    """Returns a hash of the names, shapes, dtypes and values of all leaves.

    Every process calls it for arrays that are spread over several.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _on_host(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def hash_of_trace(function: Callable[..., Any], *examples: PyTree) -> str:
    """Returns a hash of the operations, constants and numbers that JAX traces a function into.

    What runs outside JAX, such as a callback or a custom derivative rule, is not seen.

    Args:
        function: traced, not run.
        examples: its arguments; only shapes and dtypes are read.
    """
    closed = jax.make_jaxpr(function)(*jax.eval_shape(lambda *trees: trees, *examples))
    digest = hashlib.sha256()
    for line in _lines(closed, {}):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def first_record(data: PyTree | Records) -> PyTree:
    """Returns shapes and dtypes of one record, without the axis of records."""
    batch = take_records(data, np.zeros(1, np.int64))

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(of, batch)


def _lines(closed: core.ClosedJaxpr, numbers: dict[Any, int]) -> Iterator[str]:
    """The operations of a traced function, one a line; variables by when they were first seen."""
    for const in closed.consts:
        yield f"constant {hash_of_arrays(const)}"
    yield from _lines_of_open(closed.jaxpr, numbers)


def _lines_of_open(jaxpr: core.Jaxpr, numbers: dict[Any, int]) -> Iterator[str]:
    def word(variable: Any) -> str:
        if isinstance(variable, core.Literal):
            return f"{np.asarray(variable.val).tolist()!r}:{variable.aval.str_short()}"
        return f"{numbers.setdefault(variable, len(numbers))}:{variable.aval.str_short()}"

    yield f"inputs {[word(v) for v in (*jaxpr.constvars, *jaxpr.invars)]}"
    for eqn in jaxpr.eqns:
        ins, outs = [word(v) for v in eqn.invars], [word(v) for v in eqn.outvars]
        params = {name: value for name, value in eqn.params.items() if name not in _UNREAD}
        yield f"{outs} = {eqn.primitive.name} {ins} {_plain(params)}"
        for inner in _traced_in(params):
            if isinstance(inner, core.ClosedJaxpr):
                yield from _lines(inner, numbers)
            else:
                yield from _lines_of_open(inner, numbers)
    yield f"outputs {[word(v) for v in jaxpr.outvars]}"


def _traced_in(value: Any) -> Iterator[core.Jaxpr | core.ClosedJaxpr]:
    if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _traced_in(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _traced_in(inner)


def _plain(value: Any) -> Any:
    """What is the same in every process; of anything else its type."""
    if value is None or isinstance(value, bool | int | float | str | np.dtype):
        return repr(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return sorted((str(name), _plain(inner)) for name, inner in value.items())
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return hash_of_arrays(value)
    return type(value).__name__


def _on_host(leaf: Any) -> np.ndarray:
    return copy_whole(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
