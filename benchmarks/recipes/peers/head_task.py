"""What a library is given to tune: a linear head on features, and a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax.finetuning import FinetuneConfig, Training

# `kernel` (d, K) and, where the head has one, `bias` (K,); float32.
Head = dict[str, np.ndarray]
# What no gradient reaches: with it and without noise a private step is an ordinary one.
_UNREACHED_NORM = 1e30


@dataclasses.dataclass(frozen=True)
class HeadTask:
    """One run: the loss is the cross-entropy of `features @ kernel + bias`.

    Attributes:
        features: `(N, d)` float32, what the frozen model makes of the training records.
        labels: `(N,)` int32 in [0, K).
        start: where tuning starts.
        training: optimizer, learning rates, smoothing, average.
        num_steps: of the optimizer.
        clip_norm: L2 norm that the gradient of one record is clipped to.
        target_epsilon: ε of the whole run; None without privacy.
        delta: δ of the guarantee.
    """

    features: np.ndarray
    labels: np.ndarray
    start: Head
    training: Training
    num_steps: int
    clip_norm: float
    target_epsilon: float | None
    delta: float

    @property
    def batch_size(self) -> int:
        """B, the mean size of a Poisson batch; sums are divided by it."""
        return self.training.expected_batch_size

    @property
    def sampling_probability(self) -> float:
        """Probability of each record to be in a batch."""
        return self.batch_size / len(self.labels)


@dataclasses.dataclass(frozen=True)
class HeadData:
    """What the runs of one recipe share, computed by dpjax.

    Attributes:
        features: `(N, d)` float32 of training records.
        labels: `(N,)` int32.
        held_out_features: `(M, d)` float32.
        held_out_labels: `(M,)` int32.
        draw_start: makes the head that a run starts from, another one each time.
        num_steps: of each run.
        delta: δ of each run.
    """

    features: np.ndarray
    labels: np.ndarray
    held_out_features: np.ndarray
    held_out_labels: np.ndarray
    draw_start: Callable[[], Head]
    num_steps: int
    delta: float

    def task(self, config: FinetuneConfig) -> HeadTask:
        """Returns one run by the options of a run of dpjax, with privacy or without."""
        return HeadTask(
            features=self.features,
            labels=self.labels,
            start=self.draw_start(),
            training=config.training,
            num_steps=self.num_steps,
            clip_norm=_UNREACHED_NORM if config.non_private else config.privacy.clip_norm,
            target_epsilon=config.privacy.target_epsilon,
            delta=self.delta,
        )

    def accuracy(self, head: Head) -> float:
        """Returns the share of held-out records whose label is predicted."""
        logits = self.held_out_features @ head["kernel"] + head.get("bias", 0.0)
        return float(np.mean(np.argmax(logits, axis=1) == self.held_out_labels))


class MovingAverage:
    """Σₛ dᵗ⁻ˢ wₛ / Σₛ dᵗ⁻ˢ over the heads w₁ ... w_t, in float64, as `dpjax` averages.

    Args:
        decay: d; None keeps the last head.
    """

    def __init__(self, decay: float | None) -> None:
        self._decay = 0.0 if decay is None else decay
        self._sums: dict[str, np.ndarray] = {}
        self._weight = 0.0

    def add(self, head: Head) -> None:
        """Counts the head after one more step."""
        self._weight = self._decay * self._weight + 1.0
        for name, leaf in head.items():
            before = self._sums.get(name, np.zeros(leaf.shape))
            self._sums[name] = self._decay * before + leaf

    @property
    def head(self) -> Head:
        """The average, float32."""
        return {name: (leaf / self._weight).astype(np.float32) for name, leaf in self._sums.items()}


def head_loss(
    head: dict[str, jax.Array], example: tuple[jax.Array, jax.Array], label_smoothing: float
) -> jax.Array:
    """Returns the cross-entropy of one record in nats.

    Args:
        head: `kernel` (d, K) and perhaps `bias` (K,).
        example: its features, (d,), and its label, a scalar.
        label_smoothing: share of the target that is spread evenly over all labels.
    """
    features, label = example
    logits = features @ head["kernel"] + head.get("bias", 0.0)
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), label_smoothing)
    return jnp.asarray(optax.softmax_cross_entropy(logits, target))
