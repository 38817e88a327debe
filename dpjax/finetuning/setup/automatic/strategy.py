"""How gradients are clipped: what `auto` takes for the steps of a run, in a sentence."""

from __future__ import annotations

import jax

from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.steps import abstract_batch, unit_loss_of
from dpjax.models import SplitModel
from dpjax.privatize import UnreadableProgramError, explain
from dpjax.training import Layout


def describe_clipping(
    plan: Plan, model: SplitModel, microbatch_size: int, layout: Layout | None = None
) -> str:
    """Says which strategy computes the clipped sums of a run, and why. Traces the loss.

    Args:
        plan: what was asked for.
        model: arrays or shapes.
        microbatch_size: records of a microbatch.
        layout: where they lie; None for a single device.
    """
    if plan.config.training.gradient == "zeroth-order":
        return _zeroth_order_in_words(plan)
    batch = abstract_batch(plan, microbatch_size)
    if layout is not None:
        batch = jax.tree.map(layout.abstract_rows, batch)
    loss = unit_loss_of(plan, model.graphdef)
    try:
        explanation = explain(
            loss if layout is None else layout.gathering(loss),
            model.trainable,
            batch,
            model.frozen,
            device_memory=plan.device_memory,
        )
    except UnreadableProgramError as error:
        return f"strategy=auto: materialize. {error}"
    if plan.features is not None and not plan.features.has_tokens:
        return str(explanation.auto)
    # Microbatches are cut to their longest text, and what is chosen depends on the shape.
    length = plan.config.training.max_length
    return f"{explanation.auto}. That is for texts of {length} tokens; shorter ones may differ"


def _zeroth_order_in_words(plan: Plan) -> str:
    training = plan.config.training
    said = (
        f"training.gradient=zeroth-order: {2 * training.num_directions} forward passes for each "
        "microbatch and no backward pass. A record's differences of losses are clipped, and no "
        "gradient of a record is formed"
    )
    if plan.config.compute.dtype == "bfloat16":
        said += (
            f". compute.dtype=bfloat16 rounds losses, and training.smoothing={training.smoothing:g}"
            " divides what that does to their differences: float32 learns more"
        )
    return said
