"""Runs as tests set them up and look at them."""

import os

from dpjax.finetuning import set_up
from dpjax.finetuning.config import FinetuneConfig


def check(options):
    """Everything that a run does before it compiles or writes."""
    plain = {
        name: str(value) if isinstance(value, os.PathLike) else value
        for name, value in options.items()
    }
    ready = set_up(FinetuneConfig.from_options(plain))
    if ready.lock is not None:
        ready.lock.release()
    return ready


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()
