"""What must not change between an interruption and the resumption.

A step that is done again has the noise that it had. That costs no ε only where the noise is added
to the sum that it was added to: whatever changes sums or draws is compared.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import revision_of
from dpjax.training import (
    STRATEGY,
    are_same_kinds,
    check_agreement,
    describe_numerics,
    describe_strategy,
    remark_on_devices,
)

COMPUTED_ONCE = "computed_once"
"""Whether what is frozen was computed before the first step: roundings differ a little."""
HEAD_COMPUTED_ONCE = "computed_once_for_head"
"""Likewise of the steps that train the head alone."""
_MODEL_FILES = ("config.json", "1_Pooling/config.json", "model.safetensors.index.json")
# Words of labels and the centre of features are looked up here, and may be in no record.
_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model")
# Where a run is written, how often, and who is told: none of it changes what it computes.
# Which devices share the work changes results by rounding: `remarks_on_devices` says so.
_FREE_OPTIONS = (
    "resume",
    "overwrite",
    "output_dir",
    "compute.mesh",
    "compute.distributed",
    "training.checkpoint_every_seconds",
    "training.checkpoint_every_steps",
    "training.keep_checkpoints",
    "training.evaluate_every",
    "tracking.tensorboard",
    "tracking.wandb_project",
    "tracking.wandb_private_metrics",
)
_FIELDS = {"run_id", "started_at", "config", "revision", "checkpoint", "labels", "data"}
_FIELDS |= {"evaluation_data", "mechanism", "versions", "jax", "devices", "mesh", "device_memory"}
_FIELDS |= {COMPUTED_ONCE}


def describe(plan: Plan, mesh: str) -> dict[str, Any]:
    """Everything that enters sums and draws, ready for JSON; `mesh` in words."""
    strategy = plan.noise_strategy
    description = {
        "config": _options(plan.config.to_dict()),
        "revision": revision_of(plan.checkpoint),
        "checkpoint": hash_of_checkpoint(plan.checkpoint),
        "labels": plan.task.labels,
        "data": plan.fingerprint(),
        "evaluation_data": plan.evaluation.fingerprint(),
        "mechanism": None if plan.mechanism is None else plan.mechanism.to_dict(),
        "mesh": mesh,
        "device_memory": plan.device_memory,
        COMPUTED_ONCE: plan.features is not None,
        HEAD_COMPUTED_ONCE: plan.head_features is not None,
        STRATEGY: None if strategy is None else describe_strategy(strategy),
        **describe_numerics(),
    }
    return json.loads(json.dumps(description))


def read(path: Path) -> dict[str, Any]:
    """What `describe` said when the run was started, with its `run_id` and `started_at`.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged; the message says what to do.
    """
    what_to_do = "put a copy of it back, or start afresh with --overwrite or in a new folder"
    try:
        stored = json.loads(path.read_bytes())
        missing = _FIELDS - set(stored)
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        datetime.datetime.fromisoformat(stored["started_at"])
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot resume: {path} is missing; {what_to_do}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot resume: {path} is damaged ({error}); {what_to_do}") from error
    return stored


def check_same(stored: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises ValueError with the first difference between what was started and what is given."""
    _check_each("versions", stored, given, "with {name} {was}, here is {name} {now}")
    _check_each("config", stored, given, "with {name}={was}, now it is {now}")
    if stored["revision"] != given["revision"]:
        raise ValueError(
            f"cannot resume: {given['config']['model']} was at revision {stored['revision']}, now "
            f"it is at {given['revision']}; give that revision"
        )
    if stored["checkpoint"] != given["checkpoint"]:
        raise ValueError(
            "cannot resume: the weights, the configuration or the tokenizer in "
            f"{given['config']['model']} are not those that the run was started with"
        )
    for name, what in (("data", "training"), ("evaluation_data", "evaluation")):
        if stored[name] != given[name]:
            raise ValueError(
                f"cannot resume: the {what} data is not what the interrupted run had, or the "
                "tokenizer is another one"
            )
    if stored["labels"] != given["labels"]:
        raise ValueError(
            f"cannot resume: the labels were {stored['labels']}, now they are {given['labels']}"
        )
    if stored["mechanism"] != given["mechanism"]:
        raise ValueError(
            "cannot resume: the mechanism comes out differently now (another version of the "
            f"accountant?): {stored['mechanism']} became {given['mechanism']}"
        )
    _check_each("jax", stored, given, "with {name}={was}, which is {now} now")
    if not are_same_kinds(stored["devices"], given["devices"]):
        raise ValueError(
            f"cannot resume: the run was started on {stored['devices']}, this is "
            f"{given['devices']}; sums are rounded differently there"
        )


def check_options_agree(config: FinetuneConfig) -> None:
    """Raises ValueError if processes that train together were given different options.

    Each may name another output_dir: process 0 alone writes there.
    """
    options = _flat(config.to_dict())
    check_agreement({name: options[name] for name in options if name != "output_dir"})


def check_plans_agree(described: dict[str, Any]) -> None:
    """Raises ValueError if processes that train together have different files or settings."""
    names = {"data": "training data", "evaluation_data": "evaluation data"}
    names |= {"checkpoint": "checkpoints", "jax": "settings of JAX", "mechanism": "mechanisms"}
    check_agreement(
        {names.get(name, name): value for name, value in described.items() if name != "config"}
    )


def remarks_on_devices(stored: dict[str, Any], given: dict[str, Any]) -> tuple[str, ...]:
    """Says so where the devices share the work in another way than when the run was started.

    The state that the run goes on from is the last one that was stored: the steps that are done
    again have led to none.
    """
    before, now = (f"{each['devices']}, {each['mesh']}" for each in (stored, given))
    remark = remark_on_devices(before, now)
    return () if remark is None else (remark,)


def _check_each(part: str, stored: dict[str, Any], given: dict[str, Any], words: str) -> None:
    was, now = stored[part], given[part]
    for name in [*was, *(name for name in now if name not in was)]:
        if was.get(name) != now.get(name):
            difference = words.format(name=name, was=was.get(name), now=now.get(name))
            raise ValueError(f"cannot resume: the run was started {difference}")


def hash_of_checkpoint(folder: Path) -> str:
    """SHA-256 of all safetensors files of a checkpoint, its configuration and its vocabulary."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for name in (*_MODEL_FILES, *_VOCABULARY_FILES, *names):
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """The options by their names on the command line, without those that change nothing."""
    return {name: value for name, value in _flat(config).items() if name not in _FREE_OPTIONS}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """All options by their names on the command line."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat
