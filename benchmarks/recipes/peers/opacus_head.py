"""A linear head tuned by Opacus: its batches, clipping, noise and PRV accounting.

The parts of `PrivacyEngine` are put together here: the engine draws batches by a probability of
1 / ⌈N / B⌉, which is another one than that of the recipe. The optimizer is that of torch.optim,
with dpjax's learning rates. Opacus has no average of parameters: `MovingAverage` is in its place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from opacus.accountants import PRVAccountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import nn

from benchmarks.recipes.peers.head_task import Head, HeadTask, MovingAverage
from dpjax.finetuning import Training
from dpjax.finetuning.setup.optimizer import make_schedule

OPTIMIZERS = ("adam", "adamw", "sgd")
# Records whose gradients are held at once.
_MINIBATCH = 1024


def calibrate_noise(task: HeadTask) -> float:
    """Returns the noise multiplier that its search finds for the target ε."""
    return float(
        get_noise_multiplier(
            target_epsilon=task.target_epsilon,
            target_delta=task.delta,
            sample_rate=task.sampling_probability,
            steps=task.num_steps,
            accountant=PRVAccountant.mechanism(),
        )
    )


def spent_epsilon(task: HeadTask, noise_multiplier: float) -> float:
    """Returns the upper bound on ε of all steps by its PRV accountant."""
    accountant = PRVAccountant()
    for _ in range(task.num_steps):
        accountant.step(noise_multiplier=noise_multiplier, sample_rate=task.sampling_probability)
    return float(accountant.get_epsilon(task.delta))


def tune(task: HeadTask, noise_multiplier: float, seed: int) -> Head:
    """Returns the tuned head.

    Args:
        task: what is tuned, and how.
        noise_multiplier: σ; 0 for no noise.
        seed: of batches and noise, which have randomness of their own each.
    """
    for_batches, for_noise = map(_generator, np.random.SeedSequence(seed).spawn(2))
    features, labels = torch.tensor(task.features), torch.tensor(task.labels, dtype=torch.long)
    head, training = _linear(task.start), task.training
    model = GradSampleModule(head, loss_reduction="sum")
    optimizer = DPOptimizer(
        _optimizer(model, training),
        noise_multiplier=noise_multiplier,
        max_grad_norm=task.clip_norm,
        # Its sums are divided by it.
        expected_batch_size=task.batch_size,
        loss_reduction="mean",
        generator=for_noise,
    )
    loss = nn.CrossEntropyLoss(reduction="sum", label_smoothing=training.label_smoothing)
    average = MovingAverage(training.ema_decay)
    for rows, rate in zip(_batches(task, for_batches), _learning_rates(task), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        minibatches = torch.tensor(rows, dtype=torch.long).split(_MINIBATCH)
        for number, chosen in enumerate(minibatches, start=1):
            # Noise is added once, to the sum over all of them.
            optimizer.signal_skip_step(do_skip=number < len(minibatches))
            optimizer.zero_grad()
            summed = loss(model(features[chosen]), labels[chosen])
            with warnings.catch_warnings():
                # The layer's inputs are data: nothing is differentiated by them.
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                summed.backward()
            optimizer.step()
        average.add(_numpy(head))
    return average.head


def _batches(task: HeadTask, generator: torch.Generator) -> Iterator[list[int]]:
    """Yields the Poisson batches of all steps."""
    yield from UniformWithReplacementSampler(
        num_samples=len(task.labels),
        sample_rate=task.sampling_probability,
        generator=generator,
        steps=task.num_steps,
    )


def _learning_rates(task: HeadTask) -> list[float]:
    """Of all steps; the head may have a higher one than everything else would."""
    training = task.training
    share = (training.head_learning_rate or training.learning_rate) / training.learning_rate
    schedule = make_schedule(training, task.num_steps)
    return [share * float(schedule(step)) for step in range(task.num_steps)]


def _optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Makes the optimizer; each step sets its learning rate."""
    params = list(model.parameters())
    if training.optimizer == "sgd":
        return torch.optim.SGD(params, lr=0.0, momentum=training.momentum)
    if training.optimizer == "adam":
        return torch.optim.Adam(params, lr=0.0)
    return torch.optim.AdamW(params, lr=0.0, weight_decay=training.weight_decay)


def _linear(head: Head) -> nn.Linear:
    inputs, outputs = head["kernel"].shape
    linear = nn.Linear(inputs, outputs, bias="bias" in head)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(head["kernel"].T))
        if "bias" in head:
            linear.bias.copy_(torch.tensor(head["bias"]))
    return linear


def _numpy(linear: nn.Linear) -> Head:
    named = {"kernel": linear.weight.detach().numpy().T}
    return named if linear.bias is None else {**named, "bias": linear.bias.detach().numpy()}


def _generator(seed: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0]))
