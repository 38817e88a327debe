"""The steps of the method that was asked for, from the tuned adapter on."""

from __future__ import annotations

import jax

from dpjax.models import SplitModel
from dpjax.unlearning.losses.objective import (
    make_loss,
    reads_log_prob_of_reference,
    reference_log_probs,
)
from dpjax.unlearning.setup.prepared import Unlearning
from dpjax.unlearning.steps.noisy_descent import noisy_descent
from dpjax.unlearning.steps.stored_steps import StoredSteps
from dpjax.unlearning.steps.training import Steps, batch_of, descend


def make_forget(
    unlearning: Unlearning, original: SplitModel, stored: StoredSteps
) -> tuple[SplitModel, list[float]]:
    """Does the steps that are left; returns the model after the last, and the loss of each.

    Certified steps have no losses: what they are of retained records stands in the measures.

    Args:
        unlearning: what was asked for.
        original: the model with the tuned adapter as it was.
        stored: stores states, and goes on from the last one.

    Raises:
        RunInterrupted: a signal came; the state is stored.
        RunDiverged: a loss is not finite.
    """
    config = unlearning.config
    if config.is_certified:
        unlearned = noisy_descent(
            original,
            unlearning.retain,
            config.certified.to_steps(),
            batch_size=config.batch_size,
            run_key=unlearning.folder.load_key(),
            seed=config.seed,
            stored=stored,
        )
        return unlearned, []
    known = None
    if reads_log_prob_of_reference(config.method):
        known = reference_log_probs(
            original, batch_of(unlearning.forget), batch_size=config.batch_size
        )
    return descend(
        original,
        make_loss(original.graphdef, config, key=jax.random.key(config.seed)),
        unlearning.forget,
        unlearning.retain,
        Steps(unlearning.num_steps, config.batch_size, config.learning_rate, config.seed),
        reference_log_probs=known,
        stored=stored,
    )
