"""The steps that `NoisySteps` describes, on parameters and on a model."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.basics.typing import PyTree
from dpjax.data import LanguageDataset
from dpjax.models import SplitModel
from dpjax.privatize import RunKey, gaussian_noise, global_norm
from dpjax.unlearning.certified.noisy_steps import NoisySteps
from dpjax.unlearning.losses.objective import TokenRecord, make_tuning_loss
from dpjax.unlearning.steps.stored_steps import StoredSteps, repeat
from dpjax.unlearning.steps.training import batch_of, batches

# Norms come out too large, never too small; products round by less.
_SHARE_OF_BOUND = 1 - 1e-5
_TINY = float(np.finfo(np.float32).tiny)


def clip_to_norm(tree: PyTree, norm: float) -> PyTree:
    """Returns float32 arrays scaled down, as one vector, to at most a norm; zeros if not finite.

    Rounding only makes it smaller, never larger.

    Args:
        tree: pytree of float32 arrays.
        norm: at least 0.

    Example:
        >>> clipped = clip_to_norm({"w": jnp.array([3.0, 4.0])}, 1.0)
        >>> clipped["w"].round(3).tolist() == jnp.array([0.6, 0.8]).tolist()
        True
    """
    length = global_norm(tree)
    is_whole = jnp.isfinite(length)
    scale = jnp.minimum(1.0, _SHARE_OF_BOUND * norm / jnp.maximum(length, _TINY))
    return jax.tree.map(lambda leaf: jnp.where(is_whole, leaf * scale, 0.0), tree)


def noisy_step(
    parameters: PyTree, gradient: PyTree, noise_keys: jax.Array, steps: NoisySteps
) -> PyTree:
    """Returns Π((1 − η λ) x − η clip(g, C₁) + Z).

    Args:
        parameters: x, float32 arrays whose norm is at most C₀.
        gradient: g, of the same shapes; it may depend on x and on retained records, on nothing else
            that the forget set has changed.
        noise_keys: `(4,)` keys of `RunKey.noise_keys`, used for nothing else.
        steps: η, λ, C₀, C₁ and the standard deviation of Z.
    """
    gradient = clip_to_norm(gradient, steps.gradient_norm)
    noise = gaussian_noise(noise_keys, parameters, steps.noise_stddev)
    kept = 1 - steps.learning_rate * steps.weight_decay

    def moved(leaf: jax.Array, slope: jax.Array, draw: jax.Array) -> jax.Array:
        return kept * leaf - steps.learning_rate * slope + draw

    return clip_to_norm(jax.tree.map(moved, parameters, gradient, noise), steps.start_norm)


def noisy_descent(
    model: SplitModel,
    retain: LanguageDataset,
    steps: NoisySteps,
    *,
    batch_size: int,
    run_key: RunKey,
    seed: int,
    stored: StoredSteps | None = None,
) -> SplitModel:
    """Clips all trained parameters of a model to norm C₀, and takes T noisy steps on retained ones.

    The norm is that of the parameters as one vector from zero: of adapters A and B, where both are
    trained, so that clipping draws them to the base.

    The result is (`steps.epsilon(delta)`, δ)-indistinguishable from that of the same steps from a
    model of the same frozen parameters that never saw what is to be forgotten. It is no guarantee
    for the retained records.

    Args:
        model: split by what is trained; what is frozen must not depend on the forget set.
        retain: the retained records, and nothing else.
        steps: T, the norms, the noise.
        batch_size: retained records in a step.
        run_key: the secret of the noise, of this descent alone; never a fixed seed but in tests.
        seed: of the order of records, which need not be secret.
        stored: stores states, which are secret, and goes on from the last one with the noise that
            the run key gives; None for steps that are done at once.

    Raises:
        TypeError: a trained parameter is not float32.
        ValueError: there is no retained record.
        RunInterrupted: a signal came; the state is stored.

    Example:
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> from dpjax.models import (
        ...     CausalLM,
        ...     LoraConfig,
        ...     Trainable,
        ...     add_lora,
        ...     parse_config,
        ...     split_trainable,
        ... )
        >>> small = GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2)
        >>> model = CausalLM(parse_config(small.to_dict()), rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> ids, counts = np.array([[3, 1, 2]], np.int32), np.array([[False, True, True]])
        >>> retain = LanguageDataset(ids, ids > 0, np.zeros(1, bool), loss_mask=counts)
        >>> steps = NoisySteps(
        ...     start_norm=1.0, gradient_norm=0.5, learning_rate=0.1, noise_stddev=0.5, num_steps=2
        ... )
        >>> unlearned = noisy_descent(
        ...     split_trainable(model, Trainable.lora()),
        ...     retain,
        ...     steps,
        ...     batch_size=1,
        ...     run_key=RunKey.from_os_entropy(),
        ...     seed=0,
        ... )
        >>> round(steps.epsilon(1e-5), 1), type(unlearned).__name__
        (17.5, 'SplitModel')
    """
    if not len(retain):
        raise ValueError("retain must hold at least 1 record, got 0")
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.trainable):
        if leaf.dtype != jnp.float32:
            # Norms and noise of fewer digits would not be those of the proof.
            raise TypeError(
                f"trained parameters must be float32, got {leaf.dtype} at "
                f"{jax.tree_util.keystr(path)}: load the model in float32"
            )
    loss = make_tuning_loss(model.graphdef)

    def mean_of_records(trainable: PyTree, frozen: PyTree, records: TokenRecord) -> jax.Array:
        of_records = jax.vmap(loss, in_axes=(None, None, None, 0, 0))
        return jnp.mean(of_records(trainable, trainable, frozen, records, records))

    @jax.jit
    def update(
        trainable: PyTree, frozen: PyTree, records: TokenRecord, noise_keys: jax.Array
    ) -> PyTree:
        gradient = jax.grad(mean_of_records)(trainable, frozen, records)
        return noisy_step(trainable, gradient, noise_keys, steps)

    trainable = clip_to_norm(model.trainable, steps.start_norm)
    first, trainable = (0, trainable) if stored is None else stored.restore(trainable)
    size = min(batch_size, len(retain))
    order = itertools.islice(batches(len(retain), size, np.random.default_rng(seed)), first, None)

    def step(number: int, trainable: PyTree) -> PyTree:
        records = batch_of(retain.take(next(order)))
        # A step that is done again has the noise that it had: nothing is released twice.
        return update(trainable, model.frozen, records, run_key.noise_keys(step=number))

    trainable = repeat(step, trainable, first=first, num_steps=steps.num_steps, stored=stored)
    return model.replace(trainable=trainable)
