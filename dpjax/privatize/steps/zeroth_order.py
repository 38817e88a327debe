"""Private gradients from forward passes: the difference of two losses is all that is released."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np
from dpjax_accounting import BandedDPSGD, Mechanism

from dpjax.privatize.randomness.discrete.noise import DiscreteNoise
from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.rules.clipping_rules import ClippingRule
from dpjax.privatize.sampling.choice import sampler_for
from dpjax.privatize.steps.private_steps import check_one_rule, constant_rule
from dpjax.privatize.steps.zeroth_order_steps import PrivateZerothOrderGradient


def private_zeroth_order_gradient(
    loss_fn: Callable[..., jax.Array],
    *,
    mechanism: Mechanism,
    run_key: RunKey,
    clip_norm: float | None = None,
    rule: ClippingRule | None = None,
    smoothing: float = 1e-3,
    num_directions: int = 1,
    present: np.ndarray | None = None,
) -> PrivateZerothOrderGradient:
    """Binds loss, clipping rule, mechanism and run key for a loop that goes forward only (DP-ZO).

    Each step draws k public directions zⱼ ~ N(0, I). A record's differences of two losses,
    d_ij = (Lᵢ(θ + φzⱼ) - Lᵢ(θ - φzⱼ)) / 2φ, are clipped to L2 norm C, summed, and given the noise
    of the mechanism; the gradient is Σⱼ dⱼ zⱼ / k. ε is that of DP-SGD with the same mechanism: the
    sum has the same sensitivity, and k numbers instead of one for each parameter. Clipped vectors
    are rounded towards zero to a grid of C/2¹⁵, or coarser for very large batches or noise, and the
    noise is a discrete Gaussian on it, so that no rounding of floats is in what is released. With
    `LaplaceDPSGD` it is a discrete Laplace distribution of scale σC, on one direction: ε is finite
    for δ = 0 too.

    Source: Zhang et al. 2024, "Private Fine-tuning of Large Language Models with Zeroth-order
    Optimization", arXiv:2401.04343, Algorithm 1; the estimator with k directions is that of
    Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333,
    Definition 1.

    Args:
        loss_fn: as for `private_gradient`; it needs no derivative.
        mechanism: as for `private_gradient`, or `LaplaceDPSGD`; its noise is independent in each
            step.
        run_key: the secret of this run; the directions too are drawn from it.
        clip_norm: C > 0, the most that one unit contributes: the k differences in L2 norm. Without
            clipping dᵢ is about N(0, ‖gᵢ‖²) for a gradient gᵢ, for each direction.
        rule: instead of `clip_norm`, a rule of a single group, such as `AutomaticClipping`.
        smoothing: φ > 0, how far θ is moved along a direction. The error of a difference grows with
            φ², and what rounding of losses does to it with 1/φ.
        num_directions: k ≥ 1, and 1 with `LaplaceDPSGD`. Time is 2k forward
            passes; the variance of the estimate falls with k.
        present: as for `private_gradient`.

    Raises:
        TypeError: the mechanism describes no run with independent noise, the run key is not a
            RunKey, the rule not a rule, or not exactly one of `clip_norm` and `rule` is given.
        ValueError: the mechanism lacks a number that a run needs, the rule has several groups, the
            clip norm, the smoothing or the number of directions is not positive, or several
            directions are to have Laplace noise.

    Example:
        >>> import jax.numpy as jnp
        >>> from dpjax_accounting import DPSGD
        >>> data = jnp.arange(40.0).reshape(20, 2)
        >>> params = jnp.zeros(2)
        >>> mechanism = DPSGD(
        ...     num_units=20, expected_batch_size=5, noise_multiplier=1.0, num_steps=3
        ... )
        >>> private = private_zeroth_order_gradient(
        ...     lambda params, x: jnp.sum((params - x) ** 2),
        ...     mechanism=mechanism,
        ...     clip_norm=10.0,
        ...     run_key=RunKey.from_os_entropy(),
        ... )
        >>> for step in range(mechanism.num_steps):
        ...     total = private.zeros(params, step)
        ...     for rows, mask in private.batches(step, microbatch_size=4):
        ...         total = private.add(total, params, data[rows], mask)
        ...     params = params - 0.01 * private.release(total, step)
        >>> total.grads.shape, params.shape
        ((1,), (2,))
    """
    check_one_rule("private_zeroth_order_gradient", run_key, clip_norm, rule)
    rule = constant_rule(
        clip_norm, rule, wanted="a clipping rule of one group, such as FlatClipping(1.0)"
    )
    if rule.group_names is not None:
        raise ValueError(
            "rule must have a single group, since differences belong to all parameters together, "
            f"got the groups {list(rule.group_names)}. Give clip_norm, or FlatClipping"
        )
    if isinstance(mechanism, BandedDPSGD):
        raise TypeError(
            "mechanism must have independent noise, got BandedDPSGD: noise that a later step takes "
            "back must lie along the same direction, and every step has new ones. Give DPSGD"
        )
    if isinstance(num_directions, bool) or not isinstance(num_directions, int):
        raise TypeError(f"num_directions must be a whole number, got {num_directions!r}")
    if num_directions < 1:
        raise ValueError(f"num_directions must be at least 1, got {num_directions}")
    if not (math.isfinite(smoothing) and smoothing > 0):
        raise ValueError(f"smoothing must be positive and finite, got {smoothing}")
    sampler_for(mechanism, run_key, present)
    return PrivateZerothOrderGradient(
        loss_fn=loss_fn,
        mechanism=mechanism,
        run_key=run_key,
        present=present,
        rule=rule,
        noise=DiscreteNoise(mechanism, run_key, rule.clip_norm, num_directions),
        smoothing=float(smoothing),
        num_directions=num_directions,
    )
