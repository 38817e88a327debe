"""dpjax: differentially private fine-tuning of language models in JAX."""

from dpjax.privatize import ClippedGrad as ClippedGrad
from dpjax.privatize import ClippedGradFn as ClippedGradFn
from dpjax.privatize import RunKey as RunKey
from dpjax.privatize import clipped_grad as clipped_grad
from dpjax.privatize import gaussian_noise as gaussian_noise
from dpjax.privatize import noisy_mean as noisy_mean

__version__ = "0.1.0"
