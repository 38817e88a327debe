"""Privacy accounting for DP-SGD: the (ε, δ) that a run spends and the noise that a target needs.

The package stands alone: it imports no JAX, so a reviewer can check a claim without the trainer.
"""

from __future__ import annotations

from dpjax_accounting.adaptive_clipping import AdaptiveClippingDPSGD
from dpjax_accounting.banded import BandedDPSGD
from dpjax_accounting.belief import best_guess_accuracy, posterior_belief
from dpjax_accounting.calibrate import calibrate_noise
from dpjax_accounting.calibrate_run import calibrate_batch_size, calibrate_steps
from dpjax_accounting.chain import TamperedError
from dpjax_accounting.claims import claim
from dpjax_accounting.compare import Comparison, compare
from dpjax_accounting.composition import Composition
from dpjax_accounting.dataset import DatasetIdentity
from dpjax_accounting.delta import DeltaWarning, default_delta, validate_delta
from dpjax_accounting.dpsgd import DPSGD
from dpjax_accounting.fixed_size import FixedSizeDPSGD
from dpjax_accounting.full_batch import FullBatch
from dpjax_accounting.gaussian_bound import GaussianBound, NotGaussian, gaussian_dp, zcdp_rho
from dpjax_accounting.ledger import Ledger
from dpjax_accounting.ledger_merge import merge_ledgers
from dpjax_accounting.lifetime import dataset_total
from dpjax_accounting.mechanism import Mechanism, NoRenyiDivergence, mechanism_from_dict
from dpjax_accounting.profile_points import profile
from dpjax_accounting.random_allocation import RandomAllocationDPSGD
from dpjax_accounting.render import render_html, render_markdown
from dpjax_accounting.schedule import DPSGDSchedule, Segment
from dpjax_accounting.selection import BestOfRuns
from dpjax_accounting.shuffled import ShuffledDPSGD
from dpjax_accounting.spent import EpsilonBySteps
from dpjax_accounting.strongest_test import trade_off
from dpjax_accounting.tradeoff import tpr_ceiling
from dpjax_accounting.truncated_poisson import TruncatedPoissonDPSGD
from dpjax_accounting.user_level import GroupOfRecords, UserLevelDPSGD
from dpjax_accounting.verify import read_report, verify_report

__all__ = [
    "DPSGD",
    "AdaptiveClippingDPSGD",
    "BandedDPSGD",
    "BestOfRuns",
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
    "Ledger",
    "Mechanism",
    "NoRenyiDivergence",
    "NotGaussian",
    "RandomAllocationDPSGD",
    "Segment",
    "ShuffledDPSGD",
    "TamperedError",
    "TruncatedPoissonDPSGD",
    "UserLevelDPSGD",
    "best_guess_accuracy",
    "calibrate_batch_size",
    "calibrate_noise",
    "calibrate_steps",
    "claim",
    "compare",
    "dataset_total",
    "default_delta",
    "gaussian_dp",
    "mechanism_from_dict",
    "merge_ledgers",
    "posterior_belief",
    "profile",
    "read_report",
    "render_html",
    "render_markdown",
    "tpr_ceiling",
    "trade_off",
    "validate_delta",
    "verify_report",
    "zcdp_rho",
]
