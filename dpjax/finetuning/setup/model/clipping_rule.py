"""What bounds the gradient of a unit: one clip norm, or one for the head and one for the rest."""

from __future__ import annotations

from dpjax.finetuning.setup.plan import Plan
from dpjax.privatize import AdaptiveClipping, ClippingRule, FlatClipping, PerGroupClipping


def clipping_rule(plan: Plan) -> ClippingRule:
    """Returns the rule that sums are clipped by, and that the noise is in proportion to.

    With `privacy.head_clip_norm` there are two groups, and a unit contributes at most
    √(C_head² + C²): `PerGroupClipping`. With `privacy.target_quantile` it is that of the first
    step, and `adaptive_rule` changes it.

    Args:
        plan: of a run, or of its steps that train the head alone.
    """
    privacy, head = plan.config.privacy, plan.head
    if privacy.head_clip_norm is None:
        return FlatClipping(privacy.clip_norm)

    def group_of(path: str) -> str:
        return "head" if path.split(".")[0] in head else "body"

    return PerGroupClipping(group_of, {"head": privacy.head_clip_norm, "body": privacy.clip_norm})


def adaptive_rule(plan: Plan) -> AdaptiveClipping | None:
    """Returns how the clip norm moves; None where it is constant."""
    privacy = plan.config.privacy
    if privacy.target_quantile is None:
        return None
    # The mechanism says how much noise the count has.
    return AdaptiveClipping(privacy.target_quantile, privacy.clip_learning_rate)


def clip_norms(plan: Plan) -> tuple[float, ...]:
    """Returns what a unit contributes at most in L2 norm, in each stage of a run."""
    return tuple(float(clipping_rule(stage).clip_norm) for stage in plan.stages)


def clipping_in_words(plan: Plan) -> str:
    """Says what gradients are clipped to."""
    privacy = plan.config.privacy
    if privacy.target_quantile is not None:
        return (
            f"clip norm from {privacy.clip_norm:g} on towards the {privacy.target_quantile:g} "
            "quantile, which noisy counts tell"
        )
    if privacy.head_clip_norm is None:
        return f"clip norm {privacy.clip_norm:g}"
    return f"clip norms {privacy.head_clip_norm:g} (head) and {privacy.clip_norm:g} (the rest)"
