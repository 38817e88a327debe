"""What certified steps promise, and under which conditions."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax.unlearning.certified.noisy_steps import NoisySteps

CONDITIONS = (
    "It is of the weights in adapter/ alone: nothing else of this folder may be published. "
    "unlearning.json and report.md were computed from the forget set without noise, and retrained/ "
    "is another run, which has no certificate. The decision to publish must not come from them.",
    "The base must not depend on the forget set. dpjax cannot know what a base was trained on. It "
    "refuses one that lies in the folder of a dpjax run on the same training file, and no other.",
    "All options in certified, the method, and the number of tries must be chosen without looking "
    "at the forget set or at what a model says of it. A second adapter that is published from the "
    "same tuned adapter adds to the first: the squares of mu add up.",
    "The noise was drawn from a key of the operating system, which was deleted with all states "
    "before the last. It is float32: docs/limits.md says what that leaves open.",
    "Copies of the original adapter keep what they have learnt. Delete them.",
    "Nothing is promised for the retained records, which the steps have read without privacy: the "
    "adapter has no differential privacy. Nor is it hidden that something was to be forgotten.",
)


def describe_certificate(steps: NoisySteps, delta: float) -> dict[str, Any]:
    """Returns the certificate, ready for JSON; nothing in it comes from a record.

    Args:
        steps: that were done.
        delta: δ.
    """
    epsilon = steps.epsilon(delta)
    statement = (
        f"The weights in adapter/ are ({epsilon:.4g}, {delta:.3g})-indistinguishable, in both "
        "directions, from those that the same steps make of an adapter which the forget set has "
        "not touched, such as one that was trained without it. This holds whatever the forget set "
        "and the loss are (docs/unlearning.md has the theorem and its proof), under the conditions "
        "below."
    )
    return {
        "epsilon": epsilon,
        "delta": delta,
        "mu": steps.mu,
        "steps": dataclasses.asdict(steps),
        "certifies": "adapter",
        "statement": statement,
        "conditions": list(CONDITIONS),
    }
