"""The libraries by name: which are installed, what they can run, and one run of each."""

from __future__ import annotations

import importlib
import importlib.util
from typing import NamedTuple, Protocol, cast

from benchmarks.recipes.peers.head_task import Head, HeadTask
from benchmarks.recipes.recipe import Recipe, accuracy
from dpjax.finetuning import FinetuneConfig

_MODULES = {
    "jax_privacy": "benchmarks.recipes.peers.jax_privacy_head",
    "opacus": "benchmarks.recipes.peers.opacus_head",
}
LIBRARIES = ("dpjax", *_MODULES)


class Peer(Protocol):
    """What the file of a library has.

    Attributes:
        OPTIMIZERS: names of `training.optimizer` that it has.
    """

    OPTIMIZERS: tuple[str, ...]

    def calibrate_noise(self, task: HeadTask) -> float:
        """Returns the noise multiplier by which the library keeps to the target ε."""

    def spent_epsilon(self, task: HeadTask, noise_multiplier: float) -> float:
        """Returns ε of all steps by the library's accountant."""

    def tune(self, task: HeadTask, noise_multiplier: float, seed: int) -> Head:
        """Returns the tuned head, or its average where the recipe asks for one."""


class TunedHead(NamedTuple):
    """What one run came to.

    Attributes:
        head: after the last step, averaged where the recipe says so.
        epsilon: that the library reports; None without privacy.
        noise_multiplier: that the library found; None without privacy.
    """

    head: Head
    epsilon: float | None
    noise_multiplier: float | None


def is_installed(library: str) -> bool:
    """Whether a library of `LIBRARIES` can be imported."""
    return importlib.util.find_spec(library) is not None


def why_not(recipe: Recipe, config: FinetuneConfig, library: str) -> str | None:
    """Says why an installed library is not run beside dpjax; None where it can be.

    Args:
        recipe: what is tuned.
        config: the options of a run of it, with privacy.
        library: among `LIBRARIES`, but not dpjax.
    """
    given = {
        "tuning": (config.tuning, ("head",)),
        "task": (config.task, ("sequence_classification",)),
        "head.label_words": (config.head.label_words, ((),)),
        "privacy.sampling": (config.privacy.sampling, ("poisson",)),
        "privacy.noise": (config.privacy.noise, ("independent",)),
        "privacy.neighboring": (config.privacy.neighboring, ("add_or_remove_one",)),
        "privacy.head_clip_norm": (config.privacy.head_clip_norm, (None,)),
        "train_data.owner_column": (config.train_data.owner_column, (None,)),
        "training.optimizer": (config.training.optimizer, _peer(library).OPTIMIZERS),
    }
    for name, (value, allowed) in given.items():
        if value not in allowed:
            wanted = " or ".join(str(each) for each in allowed)
            return f"it has {name}={value}, and only {wanted} is compared"
    if recipe.measure is not accuracy:
        return "it is not measured by accuracy alone"
    return None


def tune_head(library: str, task: HeadTask, seed: int) -> TunedHead:
    """Runs one task with an installed library, but not dpjax.

    Args:
        library: among `LIBRARIES`.
        task: what is tuned, and how.
        seed: of batches and noise.
    """
    peer = _peer(library)
    if task.target_epsilon is None:
        return TunedHead(peer.tune(task, 0.0, seed), None, None)
    noise_multiplier = peer.calibrate_noise(task)
    head = peer.tune(task, noise_multiplier, seed)
    return TunedHead(head, peer.spent_epsilon(task, noise_multiplier), noise_multiplier)


def _peer(library: str) -> Peer:
    # A library that is not installed cannot be imported.
    return cast(Peer, importlib.import_module(_MODULES[library]))
