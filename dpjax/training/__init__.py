"""Training of any JAX model: the loop that every run shares, and `fit`."""

from dpjax.training.callbacks.callback import Callback as Callback
from dpjax.training.callbacks.callback import CallbackCaller as CallbackCaller
from dpjax.training.callbacks.progress import CountProgress as CountProgress
from dpjax.training.callbacks.progress import TrainingProgress as TrainingProgress
from dpjax.training.callbacks.tensorboard import TensorBoard as TensorBoard
from dpjax.training.callbacks.weights_and_biases import WeightsAndBiases as WeightsAndBiases
from dpjax.training.devices.clusters.distributed import (
    initialize_distributed as initialize_distributed,
)
from dpjax.training.devices.hosts import check_agreement as check_agreement
from dpjax.training.devices.layout import Layout as Layout
from dpjax.training.devices.layout import spread as spread
from dpjax.training.devices.lead import agree as agree
from dpjax.training.devices.lead import agree_with_lead as agree_with_lead
from dpjax.training.devices.lead import from_lead as from_lead
from dpjax.training.devices.lead import is_lead as is_lead
from dpjax.training.devices.lead import placed_from_lead as placed_from_lead
from dpjax.training.devices.lead import telling_failures as telling_failures
from dpjax.training.devices.lead import whole_on_host as whole_on_host
from dpjax.training.devices.lead_alone import in_all as in_all
from dpjax.training.devices.lead_alone import in_lead as in_lead
from dpjax.training.devices.lead_alone import raise_if_cut_off as raise_if_cut_off
from dpjax.training.devices.mesh import choose_mesh as choose_mesh
from dpjax.training.devices.mesh import describe_mesh as describe_mesh
from dpjax.training.devices.mesh import parse_mesh as parse_mesh
from dpjax.training.environment import are_same_kinds as are_same_kinds
from dpjax.training.environment import describe_environment as describe_environment
from dpjax.training.environment import describe_numerics as describe_numerics
from dpjax.training.environment import remark_on_devices as remark_on_devices
from dpjax.training.files.atomic import PARTIAL as PARTIAL
from dpjax.training.files.atomic import delete as delete
from dpjax.training.files.atomic import partial_of as partial_of
from dpjax.training.files.atomic import steps_on_record as steps_on_record
from dpjax.training.files.atomic import write_json as write_json
from dpjax.training.files.checkpoint_writer import CheckpointWriter as CheckpointWriter
from dpjax.training.files.checkpoints import Checkpoints as Checkpoints
from dpjax.training.files.directory_lock import DirectoryLock as DirectoryLock
from dpjax.training.files.interrupt import Interrupts as Interrupts
from dpjax.training.files.metrics_log import MetricsLog as MetricsLog
from dpjax.training.files.metrics_log import read_rows as read_rows
from dpjax.training.files.private_folder import PrivateFolder as PrivateFolder
from dpjax.training.files.run_ledger import RunLedger as RunLedger
from dpjax.training.fitting.auditing.fit_audit import FitAudit as FitAudit
from dpjax.training.fitting.correlated import STRATEGY as STRATEGY
from dpjax.training.fitting.correlated import default_strategy as default_strategy
from dpjax.training.fitting.correlated import describe_strategy as describe_strategy
from dpjax.training.fitting.fit import fit as fit
from dpjax.training.fitting.no_privacy import NoPrivacy as NoPrivacy
from dpjax.training.fitting.run import Fit as Fit
from dpjax.training.fitting.run import FitResult as FitResult
from dpjax.training.loop import StepDone as StepDone
from dpjax.training.loop import run_steps as run_steps
from dpjax.training.memory.limit import memory_limit as memory_limit
from dpjax.training.memory.microbatch_size import largest_microbatch as largest_microbatch
from dpjax.training.memory.step_memory import StepMemory as StepMemory
from dpjax.training.memory.step_programs import StepPrograms as StepPrograms
from dpjax.training.memory.words import in_words as in_words
from dpjax.training.optimizers.adam_bc import AdamBCState as AdamBCState
from dpjax.training.optimizers.adam_bc import scale_by_adam_bc as scale_by_adam_bc
from dpjax.training.optimizers.averaging import average_of as average_of
from dpjax.training.optimizers.averaging import keep_average as keep_average
from dpjax.training.optimizers.clip_norm_state import ClipNormState as ClipNormState
from dpjax.training.optimizers.clip_norm_state import keep_clip_norm as keep_clip_norm
from dpjax.training.reports.report import DIFFERENCES as DIFFERENCES
from dpjax.training.reports.report import GRADIENTS as GRADIENTS
from dpjax.training.reports.report import NEIGHBOURS as NEIGHBOURS
from dpjax.training.reports.report import TOTAL_UNKNOWN as TOTAL_UNKNOWN
from dpjax.training.reports.report import Summed as Summed
from dpjax.training.reports.report import common_assumptions as common_assumptions
from dpjax.training.reports.report import describe_claim as describe_claim
from dpjax.training.reports.report import describe_gradients as describe_gradients
from dpjax.training.reports.report import describe_implementation as describe_implementation
from dpjax.training.reports.report import describe_randomness as describe_randomness
from dpjax.training.reports.report import describe_versions as describe_versions
from dpjax.training.reports.report import first_warnings as first_warnings
from dpjax.training.reports.report import secret_draws as secret_draws
from dpjax.training.reports.user_sentences import tell_of_users as tell_of_users
from dpjax.training.steps import NonPrivateTraining as NonPrivateTraining
from dpjax.training.steps import PrivateTraining as PrivateTraining
from dpjax.training.steps import TrainingSteps as TrainingSteps
from dpjax.training.steps import ZerothOrder as ZerothOrder
from dpjax.training.stopped import RunDiverged as RunDiverged
from dpjax.training.stopped import RunInterrupted as RunInterrupted
from dpjax.training.stopped import RunInUse as RunInUse
from dpjax.training.stopped import RunStopped as RunStopped
from dpjax.training.stopped import RunStoppedByFiles as RunStoppedByFiles
from dpjax.training.stopped import stopping_on_file_errors as stopping_on_file_errors
from dpjax.training.watches.divergence import DivergenceWatch as DivergenceWatch

__all__ = [
    "DIFFERENCES",
    "GRADIENTS",
    "NEIGHBOURS",
    "PARTIAL",
    "STRATEGY",
    "TOTAL_UNKNOWN",
    "AdamBCState",
    "Callback",
    "CallbackCaller",
    "CheckpointWriter",
    "Checkpoints",
    "ClipNormState",
    "CountProgress",
    "DirectoryLock",
    "DivergenceWatch",
    "Fit",
    "FitAudit",
    "FitResult",
    "Interrupts",
    "Layout",
    "MetricsLog",
    "NoPrivacy",
    "NonPrivateTraining",
    "PrivateFolder",
    "PrivateTraining",
    "RunDiverged",
    "RunInUse",
    "RunInterrupted",
    "RunLedger",
    "RunStopped",
    "RunStoppedByFiles",
    "StepDone",
    "StepMemory",
    "StepPrograms",
    "Summed",
    "TensorBoard",
    "TrainingProgress",
    "TrainingSteps",
    "WeightsAndBiases",
    "ZerothOrder",
    "agree",
    "agree_with_lead",
    "are_same_kinds",
    "average_of",
    "check_agreement",
    "choose_mesh",
    "common_assumptions",
    "default_strategy",
    "delete",
    "describe_claim",
    "describe_environment",
    "describe_gradients",
    "describe_implementation",
    "describe_mesh",
    "describe_numerics",
    "describe_randomness",
    "describe_strategy",
    "describe_versions",
    "first_warnings",
    "fit",
    "from_lead",
    "in_all",
    "in_lead",
    "in_words",
    "initialize_distributed",
    "is_lead",
    "keep_average",
    "keep_clip_norm",
    "largest_microbatch",
    "memory_limit",
    "parse_mesh",
    "partial_of",
    "placed_from_lead",
    "raise_if_cut_off",
    "read_rows",
    "remark_on_devices",
    "run_steps",
    "scale_by_adam_bc",
    "secret_draws",
    "spread",
    "steps_on_record",
    "stopping_on_file_errors",
    "tell_of_users",
    "telling_failures",
    "whole_on_host",
    "write_json",
]
