"""Training of any JAX model: the loop that every run shares, and `fit`."""

from dpjax.training.divergence import DivergenceWatch as DivergenceWatch
from dpjax.training.environment import describe_environment as describe_environment
from dpjax.training.fit import fit as fit
from dpjax.training.fit_run import Fit as Fit
from dpjax.training.fit_run import FitResult as FitResult
from dpjax.training.loop import StepDone as StepDone
from dpjax.training.loop import run_steps as run_steps
from dpjax.training.no_privacy import NoPrivacy as NoPrivacy
from dpjax.training.progress import TrainingProgress as TrainingProgress
from dpjax.training.report import COMMON_ASSUMPTIONS as COMMON_ASSUMPTIONS
from dpjax.training.report import NEIGHBOURS as NEIGHBOURS
from dpjax.training.report import describe_claim as describe_claim
from dpjax.training.report import describe_implementation as describe_implementation
from dpjax.training.report import describe_randomness as describe_randomness
from dpjax.training.report import describe_versions as describe_versions
from dpjax.training.report import first_warnings as first_warnings
from dpjax.training.steps import NonPrivateTraining as NonPrivateTraining
from dpjax.training.steps import PrivateTraining as PrivateTraining
from dpjax.training.steps import TrainingSteps as TrainingSteps
from dpjax.training.stopped import RunDiverged as RunDiverged
from dpjax.training.stopped import RunStopped as RunStopped
from dpjax.training.stopped import RunStoppedByFiles as RunStoppedByFiles
from dpjax.training.stopped import stopping_on_file_errors as stopping_on_file_errors

__all__ = [
    "COMMON_ASSUMPTIONS",
    "NEIGHBOURS",
    "DivergenceWatch",
    "Fit",
    "FitResult",
    "NoPrivacy",
    "NonPrivateTraining",
    "PrivateTraining",
    "RunDiverged",
    "RunStopped",
    "RunStoppedByFiles",
    "StepDone",
    "TrainingProgress",
    "TrainingSteps",
    "describe_claim",
    "describe_environment",
    "describe_implementation",
    "describe_randomness",
    "describe_versions",
    "first_warnings",
    "fit",
    "run_steps",
    "stopping_on_file_errors",
]
