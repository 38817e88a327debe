"""The DP core: per-example clipping, Gaussian noise and the secret they are drawn from.

Pure JAX. Knows nothing of models, text or files.
"""

from dpjax.privatize.clipping import ClippedGrad as ClippedGrad
from dpjax.privatize.clipping import ClippedGradFn as ClippedGradFn
from dpjax.privatize.clipping import clipped_grad as clipped_grad
from dpjax.privatize.devices.device_memory import device_memory as device_memory
from dpjax.privatize.devices.device_memory import host_memory as host_memory
from dpjax.privatize.devices.device_memory import (
    memory_of_default_device as memory_of_default_device,
)
from dpjax.privatize.devices.device_memory import memory_stats as memory_stats
from dpjax.privatize.devices.room import check_device_memory as check_device_memory
from dpjax.privatize.float32.scaling import global_norm as global_norm
from dpjax.privatize.randomness.correlated.strategies import BandedStrategy as BandedStrategy
from dpjax.privatize.randomness.correlated.strategies import BufferedStrategy as BufferedStrategy
from dpjax.privatize.randomness.correlated.strategies import NoiseStrategy as NoiseStrategy
from dpjax.privatize.randomness.discrete.noise import check_discrete_noise as check_discrete_noise
from dpjax.privatize.randomness.noise import NOISE_VERSION as NOISE_VERSION
from dpjax.privatize.randomness.noise import gaussian_noise as gaussian_noise
from dpjax.privatize.randomness.noise import noisy_mean as noisy_mean
from dpjax.privatize.randomness.run_key import GeneratorName as GeneratorName
from dpjax.privatize.randomness.run_key import RunKey as RunKey
from dpjax.privatize.randomness.step_noise import StepNoise as StepNoise
from dpjax.privatize.randomness.step_noise import step_noise as step_noise
from dpjax.privatize.rules.adaptive_clipping import AdaptiveClipping as AdaptiveClipping
from dpjax.privatize.rules.clipping_rules import AutomaticClipping as AutomaticClipping
from dpjax.privatize.rules.clipping_rules import ClippingRule as ClippingRule
from dpjax.privatize.rules.clipping_rules import FlatClipping as FlatClipping
from dpjax.privatize.rules.clipping_rules import PerGroupClipping as PerGroupClipping
from dpjax.privatize.rules.unit_loss import unit_loss as unit_loss
from dpjax.privatize.sampling.choice import num_steps_of as num_steps_of
from dpjax.privatize.sampling.choice import sampler_for as sampler_for
from dpjax.privatize.sampling.choice import why_all_must_be_present as why_all_must_be_present
from dpjax.privatize.sampling.description import SamplingDescription as SamplingDescription
from dpjax.privatize.sampling.description import describe_sampling as describe_sampling
from dpjax.privatize.sampling.epochs import RandomAllocationSampler as RandomAllocationSampler
from dpjax.privatize.sampling.epochs import ShuffledSampler as ShuffledSampler
from dpjax.privatize.sampling.fixed_size import FixedSizeSampler as FixedSizeSampler
from dpjax.privatize.sampling.fixed_size import FullBatchSampler as FullBatchSampler
from dpjax.privatize.sampling.microbatches import microbatches as microbatches
from dpjax.privatize.sampling.poisson import CyclicPoissonSampler as CyclicPoissonSampler
from dpjax.privatize.sampling.poisson import PoissonSampler as PoissonSampler
from dpjax.privatize.sampling.poisson import ScheduledPoissonSampler as ScheduledPoissonSampler
from dpjax.privatize.sampling.poisson import TruncatedPoissonSampler as TruncatedPoissonSampler
from dpjax.privatize.sampling.sampler import Sampler as Sampler
from dpjax.privatize.steps.adaptive import AdaptivePrivateGradient as AdaptivePrivateGradient
from dpjax.privatize.steps.private_gradient import PrivateGradient as PrivateGradient
from dpjax.privatize.steps.private_gradient import private_gradient as private_gradient
from dpjax.privatize.steps.total import StepTotal as StepTotal
from dpjax.privatize.steps.zeroth_order import (
    private_zeroth_order_gradient as private_zeroth_order_gradient,
)
from dpjax.privatize.steps.zeroth_order_steps import (
    PrivateZerothOrderGradient as PrivateZerothOrderGradient,
)
from dpjax.privatize.structured.explain import Explanation as Explanation
from dpjax.privatize.structured.explain import explain as explain
from dpjax.privatize.structured.program.frozen_part import FrozenPart as FrozenPart
from dpjax.privatize.structured.program.frozen_part import split_frozen_part as split_frozen_part
from dpjax.privatize.structured.program.jaxpr import (
    UnreadableProgramError as UnreadableProgramError,
)
from dpjax.privatize.structured.program.where_used import change_where_used as change_where_used

__all__ = [
    "AdaptiveClipping",
    "AdaptivePrivateGradient",
    "AutomaticClipping",
    "BandedStrategy",
    "BufferedStrategy",
    "ClippedGrad",
    "ClippedGradFn",
    "ClippingRule",
    "CyclicPoissonSampler",
    "Explanation",
    "FixedSizeSampler",
    "FlatClipping",
    "FrozenPart",
    "FullBatchSampler",
    "GeneratorName",
    "NoiseStrategy",
    "PerGroupClipping",
    "PoissonSampler",
    "PrivateGradient",
    "PrivateZerothOrderGradient",
    "RandomAllocationSampler",
    "RunKey",
    "Sampler",
    "SamplingDescription",
    "ScheduledPoissonSampler",
    "ShuffledSampler",
    "StepNoise",
    "StepTotal",
    "TruncatedPoissonSampler",
    "UnreadableProgramError",
    "check_device_memory",
    "check_discrete_noise",
    "clipped_grad",
    "describe_sampling",
    "device_memory",
    "explain",
    "gaussian_noise",
    "global_norm",
    "host_memory",
    "memory_of_default_device",
    "memory_stats",
    "microbatches",
    "noisy_mean",
    "num_steps_of",
    "private_gradient",
    "private_zeroth_order_gradient",
    "sampler_for",
    "split_frozen_part",
    "step_noise",
    "unit_loss",
    "why_all_must_be_present",
]
