"""What must not change between an interruption of `fit` and its resumption.

A step that is done again has the noise that it had. That costs no ε only where the noise is added
to the sum that it was added to: whatever changes sums or draws is compared.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from dpjax_accounting import Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize import ClippingRule
from dpjax.training.environment import are_same_kinds, describe_numerics, remark_on_devices
from dpjax.training.fitting.no_privacy import NoPrivacy
from dpjax.training.fitting.records import Records
from dpjax.training.fitting.stored.fingerprints import (
    first_record,
    hash_of_arrays,
    hash_of_trace,
)

if TYPE_CHECKING:
    import optax

_AFRESH = "start afresh with overwrite=True or in a new folder"
_RUN_ID = "run_id"
# Which devices share the work changes results by rounding: `remark_on_mesh` says so.
_MESH, _DEVICES, _MESHES = "mesh", "devices", "meshes"


def describe(
    *,
    mechanism: Mechanism | NoPrivacy,
    delta: float | None,
    rule: ClippingRule | None,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    params: PyTree,
    state: PyTree,
    frozen: PyTree,
    data: PyTree | Records,
    records: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns everything that enters sums and draws, ready for JSON.

    Args:
        mechanism: what the accountant counts, or what takes its place.
        delta: of the guarantee.
        rule: of clipping.
        loss: of one record, `(params, record, frozen) -> scalar`; its operations are compared.
        optimizer: the operations of its update are compared.
        params: to start from.
        state: of the optimizer, to start from.
        frozen: what the loss reads beside them.
        data: the records, of which the first says what shapes they have.
        records: a hash of all of them.
        settings: what else of `fit`'s arguments changes sums, draws or roundings, ready for JSON,
            with the mesh.
    """
    counted = (
        mechanism.to_dict() if isinstance(mechanism, Mechanism) else dataclasses.asdict(mechanism)
    )
    description = {
        "mechanism": counted,
        "delta": delta,
        "rule": None if rule is None else _describe_rule(rule, params),
        **settings,
        "params": hash_of_arrays(params),
        "optimizer state": hash_of_arrays(state),
        "frozen": hash_of_arrays(frozen),
        "data": records,
        "loss": hash_of_trace(loss, params, first_record(data), frozen),
        "optimizer": hash_of_trace(optimizer.update, params, state, params),
        **describe_numerics(),
    }
    return json.loads(json.dumps(description))


def read(path: Path) -> dict[str, Any]:
    """Returns what `describe` said when the run was started, with its `run_id`.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged; the message says what to do.
    """
    what_to_do = f"put a copy of it back, or {_AFRESH}"
    try:
        stored = json.loads(path.read_bytes())
        if not isinstance(stored[_RUN_ID], str) or not {"optimizer state", _MESHES} <= set(stored):
            raise ValueError("it is not that of a run of fit")
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot resume: {path} is missing; {what_to_do}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot resume: {path} is damaged ({error}); {what_to_do}") from error
    return dict(stored)


def check_same(stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Compares what a run was started with to what is given.

    Raises:
        ValueError: they differ; the message names every difference.
    """
    differences = []
    for name in given:
        was, now = stored.get(name), given[name]
        if name == _MESH or (name == _DEVICES and are_same_kinds(str(was), str(now))):
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            differences += [
                f"{name} {inner} was {was.get(inner)}, now it is {now.get(inner)}"
                for inner in sorted({*was, *now})
                if was.get(inner) != now.get(inner)
            ]
        elif was != now:
            is_hash = all(isinstance(value, str) and len(value) == 64 for value in (was, now))
            hidden = f"{name} {'is' if name != 'params' else 'are'} not what it was started with"
            differences.append(hidden if is_hash else f"{name} was {was}, now it is {now}")
    if differences:
        raise ValueError(
            "cannot resume, because steps would be done again in another way: "
            f"{'; '.join(differences)}. Give what the run was started with, or {_AFRESH}"
        )


def with_meshes(given: Mapping[str, Any], stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what `describe` said, with all devices and meshes that the run was on until now.

    Args:
        given: what `describe` says now.
        stored: the same with meshes, as it was when the run was last begun; None at its start.
    """
    before = [] if stored is None else stored[_MESHES]
    now = _devices_and_mesh(given)
    return {**given, _MESHES: before if now in before else [*before, now]}


def remark_on_mesh(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Says so where devices do not share the work in the one way that they did until now."""
    return remark_on_devices(" and then ".join(stored[_MESHES]), _devices_and_mesh(given))


def _devices_and_mesh(described: Mapping[str, Any]) -> str:
    return f"{described[_DEVICES]}, {described[_MESH] or 'without a mesh'}"


def _describe_rule(rule: ClippingRule, params: PyTree) -> dict[str, Any]:
    """Its numbers, and which parameter is in which group."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    described: dict[str, Any] = {"kind": type(rule).__name__, "clip_norm": float(rule.clip_norm)}
    described["groups"] = list(rule.leaf_groups(paths))
    for name, value in vars(rule).items():
        if isinstance(value, Real | jax.Array):
            described[name] = float(value)
        elif isinstance(value, Mapping):
            described[name] = {str(key): float(inner) for key, inner in value.items()}
    return described
