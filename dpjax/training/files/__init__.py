"""The files of a run: checkpoints, lock, metrics, key, and what signals do to it."""
