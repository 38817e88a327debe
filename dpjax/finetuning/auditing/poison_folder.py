"""The folder of a poisoning audit: its secret, its finished models, and its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpjax.audit import PoisonedModel
from dpjax.finetuning.auditing.poison_models import ModelName
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.privatize import RunKey
from dpjax.training import DirectoryLock, PrivateFolder, delete, write_json

_OWNER_ONLY = 0o600


class PoisonFolder:
    """Paths and files of one poisoning audit.

    poisoning.json, poisoning.html and poisoning.png; and while it goes on private/ with the key
    from which all draws come, and models/ with a folder for each model. All is private: what models
    do was measured on private records, without noise.

    Args:
        path: of the folder.

    Example:
        >>> PoisonFolder("audits/poison").report.as_posix()
        'audits/poison/poisoning.json'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.report = self.path / "poisoning.json"
        self.page = self.path / "poisoning.html"
        self.picture = self.path / "poisoning.png"
        self.models = self.path / "models"
        self._secrets = PrivateFolder(self.path / "private")

    def check(self, *, resume: bool) -> None:
        """Checks that an audit may start here, or go on.

        Args:
            resume: whether it is to go on with what is there.

        Raises:
            FileExistsError: there is something, and nothing to go on with.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir {self.path} is a file; name a new folder")
        if self.report.exists():
            raise FileExistsError(
                f"output_dir {self.path} holds a finished audit; name a new folder"
            )
        is_empty = not self.path.exists() or not any(self.path.iterdir())
        is_started = self._secrets.identity.exists()
        if is_empty or (resume and is_started):
            return
        hint = " (or --resume, to go on)" if is_started else ""
        what = "an unfinished audit" if is_started else "other files"
        raise FileExistsError(f"output_dir {self.path} holds {what}; name a new folder{hint}")

    def lock(self) -> DirectoryLock:
        """Makes the folder for its owner alone, and keeps other processes out.

        Raises:
            RunInUse: another process is there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        return self._secrets.lock()

    def start_or_go_on(self, identity: dict[str, Any], key: RunKey) -> RunKey:
        """Returns the key of the audit: the stored one where it goes on, else the one given.

        Args:
            identity: what must be the same when it goes on, ready for JSON.
            key: of an audit that starts now.

        Raises:
            ValueError: something else was asked for when it was started, or a file is damaged.
        """
        now = json.loads(json.dumps(identity))
        if not self._secrets.identity.exists():
            self._secrets.store_key(key)
            write_json(self._secrets.identity, now, mode=_OWNER_ONLY)
            return key
        stored = json.loads(self._secrets.identity.read_bytes())
        for name, value in now.items():
            if stored.get(name) != value:
                raise ValueError(
                    f"cannot resume: {self.path} was started with {name}={stored.get(name)!r}, now "
                    f"it is {value!r}; give the same, or name a new folder"
                )
        return self._secrets.load_key()

    def directory_of(self, name: ModelName) -> RunDirectory:
        """Returns where a model is trained."""
        words = name.words.replace("ε = ", "epsilon-").replace("σ = ", "sigma-")
        return RunDirectory(self.models / words.replace(", ", "/").replace(" ", "-"))

    def finished(self, name: ModelName) -> PoisonedModel | None:
        """Returns what a model did; None if it is not finished.

        Raises:
            ValueError: the file is damaged.
        """
        path = self._outcome(name)
        if not path.exists():
            return None
        try:
            return PoisonedModel.from_dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete it, and the model is trained again"
            ) from error

    def keep(self, name: ModelName, model: PoisonedModel) -> None:
        """Writes down what a model did."""
        write_json(self._outcome(name), model.to_dict(), mode=_OWNER_ONLY)

    def finish(self, lock: DirectoryLock) -> None:
        """Deletes the secrets and the folders of models, once the report is written."""
        delete(self.models)
        self._secrets.empty()
        self._secrets.remove(lock)

    def _outcome(self, name: ModelName) -> Path:
        return self.directory_of(name).path / "outcome.json"
