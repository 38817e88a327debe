"""What one run writes into the ledger of its data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dpjax_accounting import DatasetIdentity, Ledger, Mechanism


@dataclasses.dataclass(frozen=True)
class RunLedger:
    """One run's place in a ledger: charged before the first step, settled after the last.

    Attributes:
        option: the name of the option that names the ledger.
        path: of the ledger.
        dataset: whose ledger it is.
        run_id: names the run.
        mechanism: the whole run, as planned.
        key: identifies the run key; not the key.
        note: for people.
    """

    option: str
    path: Path
    dataset: DatasetIdentity
    run_id: str
    mechanism: Mechanism
    key: str
    note: str

    def check(self) -> None:
        """Finds what a charge would refuse, without writing.

        Raises:
            FileNotFoundError: the folder of the ledger does not exist.
            ValueError: the ledger was tampered with, is that of other data, or has a run with the
                same key.
        """
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"{self.option}={self.path}: the folder {self.path.parent} does not exist; make it"
            )
        if Ledger.exists(self.path):
            Ledger.open(self.path, self.dataset).check_charge(
                self.run_id, self.mechanism, key=self.key
            )

    def charge(self) -> Ledger:
        """Puts the run on record with all its steps, synced to the disk."""
        ledger = Ledger.open(self.path, self.dataset)
        ledger.charge(self.run_id, self.mechanism, key=self.key, note=self.note)
        return ledger
