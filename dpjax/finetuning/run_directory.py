"""The folder of a run: what is in it, and how it is written so that a crash leaves no half file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dpjax_accounting.durable import write_text

from dpjax.privatize import RunKey

_PRIVATE_NOTE = """\
This folder holds the secret of an unfinished run: its key and its state, from which noise can be
recomputed. Never publish or copy it. It is deleted when the run ends.
"""


class RunDirectory:
    """Paths and files of one run.

    config.json, privacy.json, privacy.html, metrics.jsonl, attack.json, report.md with pictures,
    model/, adapter/ of LoRA on the checkpoint as it is; and while the run is unfinished private/
    (run key and checkpoint, readable by the owner only).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.privacy = self.path / "privacy.json"
        self.privacy_page = self.path / "privacy.html"
        self.metrics = self.path / "metrics.jsonl"
        self.attack = self.path / "attack.json"
        self.report = self.path / "report.md"
        self.model = self.path / "model"
        self.adapter = self.path / "adapter"
        self.private = self.path / "private"
        self.checkpoint = self.private / "checkpoint"
        self.identity = self.private / "identity.json"
        self.start_a = self.private / "start_a.npz"
        self._run_key = self.private / "run_key.json"

    def check_free(self) -> None:
        """Raises FileExistsError if the folder holds anything already."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise FileExistsError(f"output_dir {self.path} is a file; name a new folder")
        if self.config.exists():
            hint = " (or --resume, to finish the run that was interrupted)" * self.is_unfinished()
            raise FileExistsError(
                f"output_dir {self.path} holds another run; name a new folder{hint}"
            )
        if any(self.path.iterdir()):
            raise FileExistsError(f"output_dir {self.path} is not empty; name a new folder")

    def check_resumable(self) -> None:
        """Raises FileNotFoundError if there is no interrupted run in the folder."""
        if not self.is_unfinished():
            what = "a finished run" if self.config.exists() else "no run"
            raise FileNotFoundError(f"nothing to resume: {self.path} holds {what}")

    def is_unfinished(self) -> bool:
        """Whether the folder holds the secrets that an interrupted run needs."""
        return self._run_key.exists()

    def create(self, run_key: RunKey) -> None:
        """Makes the folder and stores the run's secret in private/."""
        self.private.mkdir(parents=True)
        self.private.chmod(0o700)
        (self.private / "README").write_text(_PRIVATE_NOTE)
        secret = {"secret": run_key.secret.hex(), "fixed_seed": run_key.fixed_seed}
        write_json(self._run_key, secret, mode=0o600)

    def load_run_key(self) -> RunKey:
        """The secret of the interrupted run."""
        stored = json.loads(self._run_key.read_text())
        return RunKey(bytes.fromhex(stored["secret"]), stored["fixed_seed"])

    def forget_secrets(self) -> None:
        """Deletes the run key and the checkpoint: nothing can recompute the noise any more."""
        shutil.rmtree(self.private)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Writes atomically: the file is the old one or the whole new one, also after a crash."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", mode)


class MetricsLog:
    """metrics.jsonl: one JSON object a line, appended as the run goes on."""

    def __init__(self, path: Path, keep_steps: int = 0) -> None:
        """Opens the log, dropping lines of steps after `keep_steps` (they will be run again)."""
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= keep_steps]
        write_text(path, "".join(line + "\n" for line in kept))
        self.rows = [json.loads(line) for line in kept]
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row and hands it to the operating system."""
        self.rows.append(row)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
