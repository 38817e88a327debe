"""dpjax: differentially private fine-tuning of language models in JAX.

`finetune` is a whole run, `plan` says what it would cost, `synthesize` writes synthetic records
with what was tuned, `unlearn` makes it forget some, `federate` trains across clients, and `fit`
trains any model.
`private_gradient` is the private part of a training loop of your own; `clipped_grad`,
`gaussian_noise`, `noisy_mean`, `RunKey` and `sampler_for` are its parts. The accountant is the
package `dpjax_accounting`.
"""

# First: it takes care of Ctrl-C while the rest is loaded.
from dpjax.basics.lora_config import LoraConfig as LoraConfig
from dpjax.cli import startup as startup
from dpjax.data import DataSource as DataSource
from dpjax.federated import federate as federate
from dpjax.finetuning import Audit as Audit
from dpjax.finetuning import Compute as Compute
from dpjax.finetuning import FeatureOptions as FeatureOptions
from dpjax.finetuning import FinetuneConfig as FinetuneConfig
from dpjax.finetuning import FinetuneResult as FinetuneResult
from dpjax.finetuning import Generation as Generation
from dpjax.finetuning import Head as Head
from dpjax.finetuning import Poison as Poison
from dpjax.finetuning import PoisonConfig as PoisonConfig
from dpjax.finetuning import PoisonResult as PoisonResult
from dpjax.finetuning import Privacy as Privacy
from dpjax.finetuning import RunInterrupted as RunInterrupted
from dpjax.finetuning import RunStopped as RunStopped
from dpjax.finetuning import Training as Training
from dpjax.finetuning import audit_poisoning as audit_poisoning
from dpjax.finetuning import finetune as finetune
from dpjax.finetuning import plan as plan
from dpjax.privatize import AdaptiveClipping as AdaptiveClipping
from dpjax.privatize import AdaptivePrivateGradient as AdaptivePrivateGradient
from dpjax.privatize import AutomaticClipping as AutomaticClipping
from dpjax.privatize import BandedStrategy as BandedStrategy
from dpjax.privatize import BufferedStrategy as BufferedStrategy
from dpjax.privatize import ClippedGrad as ClippedGrad
from dpjax.privatize import ClippedGradFn as ClippedGradFn
from dpjax.privatize import FlatClipping as FlatClipping
from dpjax.privatize import PerGroupClipping as PerGroupClipping
from dpjax.privatize import PoissonSampler as PoissonSampler
from dpjax.privatize import PrivateGradient as PrivateGradient
from dpjax.privatize import PrivateZerothOrderGradient as PrivateZerothOrderGradient
from dpjax.privatize import RunKey as RunKey
from dpjax.privatize import StepTotal as StepTotal
from dpjax.privatize import clipped_grad as clipped_grad
from dpjax.privatize import explain as explain
from dpjax.privatize import gaussian_noise as gaussian_noise
from dpjax.privatize import noisy_mean as noisy_mean
from dpjax.privatize import private_gradient as private_gradient
from dpjax.privatize import private_zeroth_order_gradient as private_zeroth_order_gradient
from dpjax.privatize import sampler_for as sampler_for
from dpjax.privatize import unit_loss as unit_loss
from dpjax.synthesis import SynthesisResult as SynthesisResult
from dpjax.synthesis import synthesize as synthesize
from dpjax.training import Fit as Fit
from dpjax.training import FitAudit as FitAudit
from dpjax.training import FitResult as FitResult
from dpjax.training import NoPrivacy as NoPrivacy
from dpjax.training import StepDone as StepDone
from dpjax.training import average_of as average_of
from dpjax.training import fit as fit
from dpjax.training import initialize_distributed as initialize_distributed
from dpjax.training import keep_average as keep_average
from dpjax.training import scale_by_adam_bc as scale_by_adam_bc
from dpjax.unlearning import UnlearningResult as UnlearningResult
from dpjax.unlearning import unlearn as unlearn

__all__ = [
    "AdaptiveClipping",
    "AdaptivePrivateGradient",
    "Audit",
    "AutomaticClipping",
    "BandedStrategy",
    "BufferedStrategy",
    "ClippedGrad",
    "ClippedGradFn",
    "Compute",
    "DataSource",
    "FeatureOptions",
    "FinetuneConfig",
    "FinetuneResult",
    "Fit",
    "FitAudit",
    "FitResult",
    "FlatClipping",
    "Generation",
    "Head",
    "LoraConfig",
    "NoPrivacy",
    "PerGroupClipping",
    "Poison",
    "PoisonConfig",
    "PoisonResult",
    "PoissonSampler",
    "Privacy",
    "PrivateGradient",
    "PrivateZerothOrderGradient",
    "RunInterrupted",
    "RunKey",
    "RunStopped",
    "StepDone",
    "StepTotal",
    "SynthesisResult",
    "Training",
    "UnlearningResult",
    "audit_poisoning",
    "average_of",
    "clipped_grad",
    "explain",
    "federate",
    "finetune",
    "fit",
    "gaussian_noise",
    "initialize_distributed",
    "keep_average",
    "noisy_mean",
    "plan",
    "private_gradient",
    "private_zeroth_order_gradient",
    "sampler_for",
    "scale_by_adam_bc",
    "synthesize",
    "unit_loss",
    "unlearn",
]

__version__ = "0.1.0"
