"""Privacy accounting for DP-SGD: the (ε, δ) that a run spends and the noise that a target needs.

The package stands alone: it imports no JAX, so a reviewer can check a claim without the trainer.
"""

from __future__ import annotations

from dpjax_accounting import cli as cli
from dpjax_accounting.calibrate.any_mechanism import calibrate_noise_of
from dpjax_accounting.calibrate.dpsgd import (
    calibrate_batch_size,
    calibrate_dpsgd,
    calibrate_noise,
    calibrate_steps,
)
from dpjax_accounting.delta import DeltaWarning, default_delta, validate_delta
from dpjax_accounting.engine.answer_cache import computed_afresh
from dpjax_accounting.engine.privacy_loss import SMALLEST_NOISE_MULTIPLIER
from dpjax_accounting.ledger.chained_file import TamperedError
from dpjax_accounting.ledger.dataset_identity import DatasetIdentity
from dpjax_accounting.ledger.dataset_total import dataset_total
from dpjax_accounting.ledger.ledger import Ledger
from dpjax_accounting.ledger.merge import merge_ledgers
from dpjax_accounting.mechanisms.adaptive_clipping import AdaptiveClippingDPSGD
from dpjax_accounting.mechanisms.best_of_runs import BestOfRuns
from dpjax_accounting.mechanisms.composition import Composition
from dpjax_accounting.mechanisms.dpsgd import DPSGD
from dpjax_accounting.mechanisms.laplace import LaplaceDPSGD
from dpjax_accounting.mechanisms.mechanism import Mechanism, NoRenyiDivergence, mechanism_from_dict
from dpjax_accounting.mechanisms.other_samplings.banded import BandedDPSGD
from dpjax_accounting.mechanisms.other_samplings.fixed_size import FixedSizeDPSGD
from dpjax_accounting.mechanisms.other_samplings.full_batch import FullBatch
from dpjax_accounting.mechanisms.other_samplings.random_allocation import RandomAllocationDPSGD
from dpjax_accounting.mechanisms.other_samplings.shuffled import ShuffledDPSGD
from dpjax_accounting.mechanisms.other_samplings.truncated_poisson import TruncatedPoissonDPSGD
from dpjax_accounting.mechanisms.schedule import DPSGDSchedule, Segment
from dpjax_accounting.mechanisms.stepwise import Stepwise
from dpjax_accounting.mechanisms.user_level import GroupOfRecords, UserLevelDPSGD
from dpjax_accounting.mechanisms.user_sampled import (
    UserSampledAdaptiveClippingDPSGD,
    UserSampledDPSGD,
    UserSampledFixedSizeDPSGD,
    UserSampledFullBatch,
    UserSampledRandomAllocationDPSGD,
    UserSampledShuffledDPSGD,
    UserSampledTruncatedPoissonDPSGD,
)
from dpjax_accounting.readings.belief import best_guess_accuracy, posterior_belief
from dpjax_accounting.readings.epsilon_by_step import EpsilonBySteps
from dpjax_accounting.readings.gaussian_bound import (
    GaussianBound,
    NotGaussian,
    gaussian_dp,
    zcdp_rho,
)
from dpjax_accounting.readings.profile import profile
from dpjax_accounting.readings.tpr_ceiling import tpr_ceiling
from dpjax_accounting.readings.trade_off import trade_off
from dpjax_accounting.readings.two_accountants import Comparison, compare
from dpjax_accounting.readings.unamplified import NotSampled, unamplified_epsilon
from dpjax_accounting.report.caveats import NON_PRIVATE_WARNING, SEED_WARNING
from dpjax_accounting.report.claim import claim
from dpjax_accounting.report.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Table,
    html_document,
    markdown_document,
)
from dpjax_accounting.report.page import report_page
from dpjax_accounting.report.render import render_html, render_markdown
from dpjax_accounting.report.schema import SCHEMA_VERSION
from dpjax_accounting.report.verify import read_report, verify_report
from dpjax_accounting.safe_files import finish_file, finish_folder, write_text

__all__ = [
    "DPSGD",
    "NON_PRIVATE_WARNING",
    "SCHEMA_VERSION",
    "SEED_WARNING",
    "SMALLEST_NOISE_MULTIPLIER",
    "AdaptiveClippingDPSGD",
    "BandedDPSGD",
    "BestOfRuns",
    "Block",
    "Bullets",
    "Comparison",
    "Composition",
    "DPSGDSchedule",
    "DatasetIdentity",
    "DeltaWarning",
    "EpsilonBySteps",
    "FixedSizeDPSGD",
    "FullBatch",
    "GaussianBound",
    "GroupOfRecords",
    "Heading",
    "LaplaceDPSGD",
    "Ledger",
    "Mechanism",
    "NoRenyiDivergence",
    "NotGaussian",
    "NotSampled",
    "Paragraph",
    "RandomAllocationDPSGD",
    "Segment",
    "ShuffledDPSGD",
    "Stepwise",
    "Table",
    "TamperedError",
    "TruncatedPoissonDPSGD",
    "UserLevelDPSGD",
    "UserSampledAdaptiveClippingDPSGD",
    "UserSampledDPSGD",
    "UserSampledFixedSizeDPSGD",
    "UserSampledFullBatch",
    "UserSampledRandomAllocationDPSGD",
    "UserSampledShuffledDPSGD",
    "UserSampledTruncatedPoissonDPSGD",
    "best_guess_accuracy",
    "calibrate_batch_size",
    "calibrate_dpsgd",
    "calibrate_noise",
    "calibrate_noise_of",
    "calibrate_steps",
    "claim",
    "cli",
    "compare",
    "computed_afresh",
    "dataset_total",
    "default_delta",
    "finish_file",
    "finish_folder",
    "gaussian_dp",
    "html_document",
    "markdown_document",
    "mechanism_from_dict",
    "merge_ledgers",
    "posterior_belief",
    "profile",
    "read_report",
    "render_html",
    "render_markdown",
    "report_page",
    "tpr_ceiling",
    "trade_off",
    "unamplified_epsilon",
    "validate_delta",
    "verify_report",
    "write_text",
    "zcdp_rho",
]
