"""What a kill would leave of a folder, at every moment."""

import os
import shutil
import threading

NAMES = ("fsync", "replace", "rename", "unlink", "rmdir")


class Snapshots:
    """Copies of a folder before each change that Python makes to it, one for each set of files.

    Args:
        folder: that is watched.
        store: where the copies lie.
        reports: names of files on which nothing depends.
    """

    def __init__(self, folder, store, reports=frozenset()):
        self.folder, self.store, self.reports = folder, store, reports
        self.taken = {}
        self.lock = threading.RLock()
        self.is_taking = False

    def patch(self, patch):
        for name in NAMES:
            patch.setattr(os, name, self._before(getattr(os, name)))

    def take(self):
        names = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        # Files of orbax have names of their own in every run.
        names -= {name for name in names if "step_" in name and name.count("/") > 2}
        signature = tuple(sorted(names - self.reports))
        if signature in self.taken:
            return
        target = self.store / f"{len(self.taken):03}"
        try:
            shutil.copytree(self.folder, target)
        except shutil.Error:
            # Native code has renamed a file meanwhile: not a state of one moment.
            shutil.rmtree(target)
        else:
            self.taken[signature] = target

    def _before(self, change):
        def changed(*arguments, **options):
            # The thread that stores states makes changes too.
            with self.lock:
                # Removing a copy that failed is no change of the folder.
                if self.folder.exists() and not self.is_taking:
                    self.is_taking = True
                    try:
                        self.take()
                    finally:
                        self.is_taking = False
                return change(*arguments, **options)

        return changed
