"""What must be the same when an unlearning goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dpjax.training import are_same_kinds, describe_numerics
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.setup.forget_set import ForgetSet
from dpjax.unlearning.setup.tuned_run import TunedRun

# The content of the forget set is compared, however it is named.
_FREE_OPTIONS = {"run", "output_dir", "resume", "forget", "forget_rows", "forget_owners"}


def describe(config: UnlearnConfig, run: TunedRun, rows: ForgetSet) -> dict[str, Any]:
    """Returns all that steps and measures depend on, ready for JSON.

    Args:
        config: what was asked for.
        run: whose model is to forget.
        rows: the records to forget.
    """
    options = config.to_dict()
    identity = {
        "run_id": run.privacy["run"]["id"],
        "started_at": run.plan.started_at.isoformat(),
        "options": {name: value for name, value in options.items() if name not in _FREE_OPTIONS},
        "adapter": _hash_of_folder(run.adapter),
        "records": [run.plan.fingerprint(), run.plan.evaluation.fingerprint()],
        "forget_rows": hashlib.sha256(rows.forget.tobytes()).hexdigest(),
        "questions": None if config.truth_ratio is None else _hash_of_file(config.truth_ratio),
        **describe_numerics(),
    }
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def check_same(stored: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises ValueError with the first difference between what was started and what is given."""
    if stored["run_id"] != given["run_id"]:
        raise ValueError(
            f"cannot resume: it was started with the run {stored['run_id']}, this is "
            f"{given['run_id']}"
        )
    for part in ("options", "versions", "jax"):
        for name in {**stored[part], **given[part]}:
            was, now = stored[part].get(name), given[part].get(name)
            if was != now:
                raise ValueError(
                    f"cannot resume: it was started with {name}={was}, now it is {now}"
                )
    for name, what in (
        ("adapter", "the adapter of the run"),
        ("records", "a data file of the run"),
        ("forget_rows", "the forget set"),
        ("questions", "the file of truth_ratio"),
    ):
        if stored[name] != given[name]:
            raise ValueError(
                f"cannot resume: {what} is not what it was when this was started. Put a copy of it "
                "back, or start in a new folder"
            )
    if not are_same_kinds(stored["devices"], given["devices"]):
        raise ValueError(
            f"cannot resume: it was started on {stored['devices']}, this is {given['devices']}; "
            "sums are rounded differently there"
        )


def _hash_of_folder(folder: Path) -> str:
    """SHA-256 of the names and contents of the files of an adapter."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0{_hash_of_file(path)}\n".encode())
    return digest.hexdigest()


def _hash_of_file(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
