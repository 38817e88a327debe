"""The stage of a run that trains the head alone: its options, and what they must fit."""

from __future__ import annotations

import dataclasses

from dpjax.finetuning.config.privacy import Privacy
from dpjax.finetuning.config.training import Training


def check_head_stage(
    privacy: Privacy, training: Training, *, tuning: str, owner_column: str | None
) -> None:
    """Raises ValueError if a head that is trained first, or clipped by itself, does not fit.

    Args:
        privacy: the promise.
        training: the recipe.
        tuning: what is trained.
        owner_column: of the training records; None where each is protected by itself.
    """
    if privacy.head_clip_norm is not None and tuning == "head":
        raise ValueError(
            f"privacy.head_clip_norm={privacy.head_clip_norm} is beside what else is trained, and "
            "tuning=head trains the head alone: give privacy.clip_norm, or another tuning"
        )
    steps, size = training.head_steps, training.head_batch_size
    if steps is None:
        return
    if tuning == "head":
        raise ValueError(
            f"training.head_steps={steps} come before those of another tuning, and tuning=head "
            "trains the head in all steps: give training.num_steps, or another tuning"
        )
    if privacy.sampling != "poisson" or privacy.noise != "independent":
        raise ValueError(
            f"training.head_steps={steps} needs privacy.sampling=poisson and "
            f"privacy.noise=independent, got {privacy.sampling} and {privacy.noise}: leave these "
            "out, or head_steps"
        )
    if size is not None and owner_column is not None:
        raise ValueError(
            f"training.head_batch_size={size} changes the size of batches, which is accounted for "
            f"with records as units, got train_data.owner_column={owner_column!r}: leave out "
            "head_batch_size"
        )
    if training.num_steps is not None:
        check_some_are_left(steps, training.num_steps)


def check_some_are_left(head_steps: int, num_steps: int) -> None:
    """Raises ValueError if no step is left for what `tuning` trains."""
    if head_steps >= num_steps:
        raise ValueError(
            f"training.head_steps={head_steps} must be below the {num_steps} steps of the run, "
            "which they are the first of; give fewer, or tuning=head"
        )


def head_stage_options(privacy: Privacy, training: Training) -> tuple[Privacy, Training]:
    """Returns the options as of a run that has the steps alone that train the head.

    Args:
        privacy: of the whole run.
        training: likewise, with `head_steps`.

    Example:
        >>> recipe = Training(num_steps=100, head_steps=40, head_learning_rate=0.01)
        >>> privacy, training = head_stage_options(Privacy(head_clip_norm=0.5), recipe)
        >>> training.num_steps, training.learning_rate, privacy.clip_norm
        (40, 0.01, 0.5)
    """
    privacy = dataclasses.replace(
        privacy, clip_norm=privacy.head_clip_norm or privacy.clip_norm, head_clip_norm=None
    )
    training = dataclasses.replace(
        training,
        num_steps=training.head_steps,
        num_epochs=None,
        expected_batch_size=training.head_batch_size or training.expected_batch_size,
        learning_rate=training.head_learning_rate or training.learning_rate,
        head_learning_rate=None,
        head_steps=None,
        head_batch_size=None,
    )
    return privacy, training
