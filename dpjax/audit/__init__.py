"""Attacks on a tuned model, their uncertainty, and what (ε, δ) would allow them to reach."""

from dpjax.audit.bounds.bayesian import bayesian_epsilon as bayesian_epsilon
from dpjax.audit.bounds.bayesian import credible_interval as credible_interval
from dpjax.audit.bounds.bound import EpsilonBound as EpsilonBound
from dpjax.audit.bounds.curves import GaussianCurves as GaussianCurves
from dpjax.audit.bounds.curves import MechanismCurves as MechanismCurves
from dpjax.audit.bounds.from_scores import epsilon_from_scores as epsilon_from_scores
from dpjax.audit.bounds.from_scores import fdp_epsilon_from_scores as fdp_epsilon_from_scores
from dpjax.audit.bounds.guesses import DEFAULT_PLAN as DEFAULT_PLAN
from dpjax.audit.bounds.guesses import SYMMETRIC_PLAN as SYMMETRIC_PLAN
from dpjax.audit.bounds.guesses import GuessPlan as GuessPlan
from dpjax.audit.bounds.independent_channels import (
    independent_channels_epsilon as independent_channels_epsilon,
)
from dpjax.audit.bounds.many_runs import clopper_pearson_epsilon as clopper_pearson_epsilon
from dpjax.audit.bounds.many_runs import gaussian_epsilon as gaussian_epsilon
from dpjax.audit.bounds.one_run import one_run_epsilon as one_run_epsilon
from dpjax.audit.bounds.one_run_fdp import one_run_fdp_epsilon as one_run_fdp_epsilon
from dpjax.audit.canaries.checks import check_canaries as check_canaries
from dpjax.audit.canaries.checks import find_count_problems as find_count_problems
from dpjax.audit.canaries.checks import find_repeated_canaries as find_repeated_canaries
from dpjax.audit.canaries.checks import find_secret_problems as find_secret_problems
from dpjax.audit.canaries.checks import find_share_problems as find_share_problems
from dpjax.audit.canaries.checks import find_trained_canaries as find_trained_canaries
from dpjax.audit.canaries.coins import Coins as Coins
from dpjax.audit.canaries.coins import HoldOut as HoldOut
from dpjax.audit.canaries.coins import flip_coins as flip_coins
from dpjax.audit.canaries.coins import hold_out as hold_out
from dpjax.audit.canaries.coins import order_scores as order_scores
from dpjax.audit.canaries.encoding import append_canaries as append_canaries
from dpjax.audit.canaries.encoding import encode_canaries as encode_canaries
from dpjax.audit.canaries.gradient_canaries import add_gradient_canaries as add_gradient_canaries
from dpjax.audit.canaries.gradient_canaries import canary_coordinates as canary_coordinates
from dpjax.audit.canaries.gradient_canaries import log_likelihood_ratio as log_likelihood_ratio
from dpjax.audit.canaries.gradient_canaries import unused_coordinates as unused_coordinates
from dpjax.audit.canaries.makers.base import Canaries as Canaries
from dpjax.audit.canaries.makers.registry import CANARY_KINDS as CANARY_KINDS
from dpjax.audit.canaries.makers.registry import make_canaries as make_canaries
from dpjax.audit.canaries.makers.unused_tokens import canary_tokenizer as canary_tokenizer
from dpjax.audit.canaries.makers.unused_tokens import find_rare_tokens as find_rare_tokens
from dpjax.audit.canaries.makers.unused_tokens import find_unused_tokens as find_unused_tokens
from dpjax.audit.canaries.manifest import Manifest as Manifest
from dpjax.audit.canaries.sealed_folder import open_coins as open_coins
from dpjax.audit.canaries.sealed_folder import read_canaries as read_canaries
from dpjax.audit.canaries.sealed_folder import read_manifest as read_manifest
from dpjax.audit.canaries.sealed_folder import seal as seal
from dpjax.audit.foreign_scores import join_scores as join_scores
from dpjax.audit.foreign_scores import read_scores as read_scores
from dpjax.audit.membership.attack import AttackResult as AttackResult
from dpjax.audit.membership.attack import loss_attack as loss_attack
from dpjax.audit.membership.attack import score_attack as score_attack
from dpjax.audit.membership.blind_baseline import BlindBaseline as BlindBaseline
from dpjax.audit.membership.blind_baseline import blind_baseline as blind_baseline
from dpjax.audit.membership.ceiling import auc_ceiling as auc_ceiling
from dpjax.audit.membership.ceiling import ceiling_alarms as ceiling_alarms
from dpjax.audit.membership.ceiling import exceeds_ceiling as exceeds_ceiling
from dpjax.audit.membership.intervals import auc_interval as auc_interval
from dpjax.audit.membership.intervals import binomial_interval as binomial_interval
from dpjax.audit.membership.intervals import tpr_interval as tpr_interval
from dpjax.audit.membership.roc import RocCurve as RocCurve
from dpjax.audit.membership.roc import auc as auc
from dpjax.audit.membership.roc import roc_curve as roc_curve
from dpjax.audit.reports.attack_section import render_attack_section as render_attack_section
from dpjax.audit.reports.audit_page import audit_markdown as audit_markdown
from dpjax.audit.reports.audit_page import audit_page as audit_page
from dpjax.audit.reports.audit_report import CanaryScores as CanaryScores
from dpjax.audit.reports.audit_report import build_audit_report as build_audit_report
from dpjax.audit.reports.audit_report import read_audit_report as read_audit_report
from dpjax.audit.reports.audit_report import verify_audit_report as verify_audit_report
from dpjax.audit.reports.plots import plot_roc as plot_roc
from dpjax.audit.reports.plots import plot_training as plot_training
from dpjax.audit.verdicts.power import Power as Power
from dpjax.audit.verdicts.power import audit_power as audit_power
from dpjax.audit.verdicts.power import canaries_needed as canaries_needed
from dpjax.audit.verdicts.verdict import Verdict as Verdict
from dpjax.audit.verdicts.verdict import judge as judge

__all__ = [
    "CANARY_KINDS",
    "DEFAULT_PLAN",
    "SYMMETRIC_PLAN",
    "AttackResult",
    "BlindBaseline",
    "Canaries",
    "CanaryScores",
    "Coins",
    "EpsilonBound",
    "GaussianCurves",
    "GuessPlan",
    "HoldOut",
    "Manifest",
    "MechanismCurves",
    "Power",
    "RocCurve",
    "Verdict",
    "add_gradient_canaries",
    "append_canaries",
    "auc",
    "auc_ceiling",
    "auc_interval",
    "audit_markdown",
    "audit_page",
    "audit_power",
    "bayesian_epsilon",
    "binomial_interval",
    "blind_baseline",
    "build_audit_report",
    "canaries_needed",
    "canary_coordinates",
    "canary_tokenizer",
    "ceiling_alarms",
    "check_canaries",
    "clopper_pearson_epsilon",
    "credible_interval",
    "encode_canaries",
    "epsilon_from_scores",
    "exceeds_ceiling",
    "fdp_epsilon_from_scores",
    "find_count_problems",
    "find_rare_tokens",
    "find_repeated_canaries",
    "find_secret_problems",
    "find_share_problems",
    "find_trained_canaries",
    "find_unused_tokens",
    "flip_coins",
    "gaussian_epsilon",
    "hold_out",
    "independent_channels_epsilon",
    "join_scores",
    "judge",
    "log_likelihood_ratio",
    "loss_attack",
    "make_canaries",
    "one_run_epsilon",
    "one_run_fdp_epsilon",
    "open_coins",
    "order_scores",
    "plot_roc",
    "plot_training",
    "read_audit_report",
    "read_canaries",
    "read_manifest",
    "read_scores",
    "render_attack_section",
    "roc_curve",
    "score_attack",
    "seal",
    "tpr_interval",
    "unused_coordinates",
    "verify_audit_report",
]
