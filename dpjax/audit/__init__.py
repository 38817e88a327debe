"""Attacks on a tuned model, their uncertainty, and what (ε, δ) would allow them to reach."""

from dpjax.audit.bounds.attack_counts import AttackCounts as AttackCounts
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
from dpjax.audit.bounds.many_runs import refutes_trade_off as refutes_trade_off
from dpjax.audit.bounds.one_run import one_run_epsilon as one_run_epsilon
from dpjax.audit.bounds.one_run_fdp import one_run_fdp_epsilon as one_run_fdp_epsilon
from dpjax.audit.canaries.checks import check_canaries as check_canaries
from dpjax.audit.canaries.checks import check_count as check_count
from dpjax.audit.canaries.coins import Coins as Coins
from dpjax.audit.canaries.coins import HoldOut as HoldOut
from dpjax.audit.canaries.coins import flip_coins as flip_coins
from dpjax.audit.canaries.coins import hold_out as hold_out
from dpjax.audit.canaries.coins import order_scores as order_scores
from dpjax.audit.canaries.copies import count_copies as count_copies
from dpjax.audit.canaries.encoding import append_canaries as append_canaries
from dpjax.audit.canaries.encoding import encode_canaries as encode_canaries
from dpjax.audit.canaries.gradient_canaries import add_gradient_canaries as add_gradient_canaries
from dpjax.audit.canaries.gradient_canaries import canary_coordinates as canary_coordinates
from dpjax.audit.canaries.gradient_canaries import log_likelihood_ratio as log_likelihood_ratio
from dpjax.audit.canaries.gradient_canaries import unused_coordinates as unused_coordinates
from dpjax.audit.canaries.makers.base import Canaries as Canaries
from dpjax.audit.canaries.makers.base import number_ids as number_ids
from dpjax.audit.canaries.makers.registry import CANARY_KINDS as CANARY_KINDS
from dpjax.audit.canaries.makers.registry import make_canaries as make_canaries
from dpjax.audit.canaries.makers.unused_tokens import find_rare_tokens as find_rare_tokens
from dpjax.audit.canaries.makers.unused_tokens import find_unused_tokens as find_unused_tokens
from dpjax.audit.canaries.manifest import Manifest as Manifest
from dpjax.audit.canaries.sealed_folder import open_coins as open_coins
from dpjax.audit.canaries.sealed_folder import read_canaries as read_canaries
from dpjax.audit.canaries.sealed_folder import read_manifest as read_manifest
from dpjax.audit.canaries.sealed_folder import seal as seal
from dpjax.audit.extraction.exposure import exposure_by_rank as exposure_by_rank
from dpjax.audit.extraction.exposure import exposure_by_sampling as exposure_by_sampling
from dpjax.audit.extraction.figure import ExtractionFigure as ExtractionFigure
from dpjax.audit.extraction.greedy import discoverable_extraction as discoverable_extraction
from dpjax.audit.extraction.greedy import exact_memorisation as exact_memorisation
from dpjax.audit.extraction.greedy import extraction_strength as extraction_strength
from dpjax.audit.extraction.of_canaries import extract_canaries as extract_canaries
from dpjax.audit.extraction.sampled import extraction_probability as extraction_probability
from dpjax.audit.extraction.sampled import sampled_extraction as sampled_extraction
from dpjax.audit.extraction.sampled import samples_needed as samples_needed
from dpjax.audit.extraction.sampled import suffix_log_probs as suffix_log_probs
from dpjax.audit.extraction.suffixes import Suffix as Suffix
from dpjax.audit.foreign_scores import join_scores as join_scores
from dpjax.audit.foreign_scores import read_scores as read_scores
from dpjax.audit.membership.attack import AttackResult as AttackResult
from dpjax.audit.membership.attack import loss_attack as loss_attack
from dpjax.audit.membership.attack import owner_loss_attack as owner_loss_attack
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
from dpjax.audit.poisoning.bound import epsilon_success_bound as epsilon_success_bound
from dpjax.audit.poisoning.bound import mechanism_success_bound as mechanism_success_bound
from dpjax.audit.poisoning.limits import mean_upper_limit as mean_upper_limit
from dpjax.audit.poisoning.page import draw_poisoning as draw_poisoning
from dpjax.audit.poisoning.page import poisoning_markdown as poisoning_markdown
from dpjax.audit.poisoning.page import poisoning_page as poisoning_page
from dpjax.audit.poisoning.planting import choose_poisoned as choose_poisoned
from dpjax.audit.poisoning.planting import poisonable as poisonable
from dpjax.audit.poisoning.planting import rows_of_others as rows_of_others
from dpjax.audit.poisoning.planting import texts_of as texts_of
from dpjax.audit.poisoning.planting import with_answer as with_answer
from dpjax.audit.poisoning.planting import with_near_trigger as with_near_trigger
from dpjax.audit.poisoning.planting import with_trigger as with_trigger
from dpjax.audit.poisoning.rates import PoisonedModel as PoisonedModel
from dpjax.audit.poisoning.rates import PoisonRates as PoisonRates
from dpjax.audit.poisoning.rates import TriggerCounts as TriggerCounts
from dpjax.audit.poisoning.rates import poison_rates as poison_rates
from dpjax.audit.poisoning.report import PrivacySetting as PrivacySetting
from dpjax.audit.poisoning.report import build_poisoning_report as build_poisoning_report
from dpjax.audit.poisoning.triggers import Place as Place
from dpjax.audit.poisoning.triggers import Trigger as Trigger
from dpjax.audit.poisoning.triggers import TriggerKind as TriggerKind
from dpjax.audit.poisoning.triggers import draw_places as draw_places
from dpjax.audit.poisoning.triggers import near_rare_word as near_rare_word
from dpjax.audit.poisoning.triggers import near_sentence as near_sentence
from dpjax.audit.references.bavaria import bavaria_scores as bavaria_scores
from dpjax.audit.references.confidence import classifier_confidence as classifier_confidence
from dpjax.audit.references.confidence import language_confidence as language_confidence
from dpjax.audit.references.design import balanced_membership as balanced_membership
from dpjax.audit.references.design import shadow_key as shadow_key
from dpjax.audit.references.lira import lira_scores as lira_scores
from dpjax.audit.references.rmia import rmia_log_ratios as rmia_log_ratios
from dpjax.audit.references.rmia import rmia_scores as rmia_scores
from dpjax.audit.references.scoring import score_shadows as score_shadows
from dpjax.audit.references.training import Shadows as Shadows
from dpjax.audit.references.training import ShadowTraining as ShadowTraining
from dpjax.audit.references.training import train_shadows as train_shadows
from dpjax.audit.reports.attack_section import render_attack_section as render_attack_section
from dpjax.audit.reports.audit_page import audit_markdown as audit_markdown
from dpjax.audit.reports.audit_page import audit_page as audit_page
from dpjax.audit.reports.audit_report import CanaryScores as CanaryScores
from dpjax.audit.reports.audit_report import build_audit_report as build_audit_report
from dpjax.audit.reports.audit_report import read_audit_report as read_audit_report
from dpjax.audit.reports.audit_report import verify_audit_report as verify_audit_report
from dpjax.audit.reports.comparison import comparison_markdown as comparison_markdown
from dpjax.audit.reports.comparison import comparison_page as comparison_page
from dpjax.audit.reports.plots import plot_roc as plot_roc
from dpjax.audit.reports.plots import plot_training as plot_training
from dpjax.audit.reports.run_audit import PRIVATE_RECORDS as PRIVATE_RECORDS
from dpjax.audit.reports.run_audit import build_run_audit as build_run_audit
from dpjax.audit.scores.base_calibrated import ez_score as ez_score
from dpjax.audit.scores.base_calibrated import ratio_score as ratio_score
from dpjax.audit.scores.base_calibrated import wbc_score as wbc_score
from dpjax.audit.scores.class_scores import class_logits as class_logits
from dpjax.audit.scores.class_scores import class_loss_score as class_loss_score
from dpjax.audit.scores.class_scores import confidence_score as confidence_score
from dpjax.audit.scores.class_scores import margin_score as margin_score
from dpjax.audit.scores.collect import collect_evidence as collect_evidence
from dpjax.audit.scores.evidence import Evidence as Evidence
from dpjax.audit.scores.gradient_scores import GradientStatistics as GradientStatistics
from dpjax.audit.scores.gradient_scores import gradient_norm_score as gradient_norm_score
from dpjax.audit.scores.gradient_scores import gradient_statistics as gradient_statistics
from dpjax.audit.scores.gradient_scores import gradient_update_score as gradient_update_score
from dpjax.audit.scores.neighbours import Neighbours as Neighbours
from dpjax.audit.scores.neighbours import neighbour_log_probs as neighbour_log_probs
from dpjax.audit.scores.neighbours import replace_tokens as replace_tokens
from dpjax.audit.scores.record_texts import lowercase_records as lowercase_records
from dpjax.audit.scores.record_texts import target_texts as target_texts
from dpjax.audit.scores.reference_free import compressed_bytes as compressed_bytes
from dpjax.audit.scores.reference_free import loss_score as loss_score
from dpjax.audit.scores.reference_free import lowercase_score as lowercase_score
from dpjax.audit.scores.reference_free import min_k_plus_score as min_k_plus_score
from dpjax.audit.scores.reference_free import min_k_score as min_k_score
from dpjax.audit.scores.reference_free import neighbourhood_score as neighbourhood_score
from dpjax.audit.scores.reference_free import zlib_score as zlib_score
from dpjax.audit.scores.registry import SCORES as SCORES
from dpjax.audit.scores.registry import Score as Score
from dpjax.audit.scores.registry import compute_scores as compute_scores
from dpjax.audit.scores.registry import needs_of as needs_of
from dpjax.audit.scores.token_passes import mean_log_probs as mean_log_probs
from dpjax.audit.scores.token_passes import probable_tokens as probable_tokens
from dpjax.audit.scores.token_passes import token_statistics as token_statistics
from dpjax.audit.scores.token_statistics import TokenStatistics as TokenStatistics
from dpjax.audit.scores.token_statistics import statistics_from_logits as statistics_from_logits
from dpjax.audit.scores.written_tokens import greedy_tokens as greedy_tokens
from dpjax.audit.verdicts.power import Power as Power
from dpjax.audit.verdicts.power import audit_power as audit_power
from dpjax.audit.verdicts.power import canaries_needed as canaries_needed
from dpjax.audit.verdicts.verdict import Verdict as Verdict
from dpjax.audit.verdicts.verdict import judge as judge

__all__ = [
    "CANARY_KINDS",
    "DEFAULT_PLAN",
    "PRIVATE_RECORDS",
    "SCORES",
    "SYMMETRIC_PLAN",
    "AttackCounts",
    "AttackResult",
    "BlindBaseline",
    "Canaries",
    "CanaryScores",
    "Coins",
    "EpsilonBound",
    "Evidence",
    "ExtractionFigure",
    "GaussianCurves",
    "GradientStatistics",
    "GuessPlan",
    "HoldOut",
    "Manifest",
    "MechanismCurves",
    "Neighbours",
    "Place",
    "PoisonRates",
    "PoisonedModel",
    "Power",
    "PrivacySetting",
    "RocCurve",
    "Score",
    "ShadowTraining",
    "Shadows",
    "Suffix",
    "TokenStatistics",
    "Trigger",
    "TriggerCounts",
    "TriggerKind",
    "Verdict",
    "add_gradient_canaries",
    "append_canaries",
    "auc",
    "auc_ceiling",
    "auc_interval",
    "audit_markdown",
    "audit_page",
    "audit_power",
    "balanced_membership",
    "bavaria_scores",
    "bayesian_epsilon",
    "binomial_interval",
    "blind_baseline",
    "build_audit_report",
    "build_poisoning_report",
    "build_run_audit",
    "canaries_needed",
    "canary_coordinates",
    "ceiling_alarms",
    "check_canaries",
    "check_count",
    "choose_poisoned",
    "class_logits",
    "class_loss_score",
    "classifier_confidence",
    "clopper_pearson_epsilon",
    "collect_evidence",
    "comparison_markdown",
    "comparison_page",
    "compressed_bytes",
    "compute_scores",
    "confidence_score",
    "count_copies",
    "credible_interval",
    "discoverable_extraction",
    "draw_places",
    "draw_poisoning",
    "encode_canaries",
    "epsilon_from_scores",
    "epsilon_success_bound",
    "exact_memorisation",
    "exceeds_ceiling",
    "exposure_by_rank",
    "exposure_by_sampling",
    "extract_canaries",
    "extraction_probability",
    "extraction_strength",
    "ez_score",
    "fdp_epsilon_from_scores",
    "find_rare_tokens",
    "find_unused_tokens",
    "flip_coins",
    "gaussian_epsilon",
    "gradient_norm_score",
    "gradient_statistics",
    "gradient_update_score",
    "greedy_tokens",
    "hold_out",
    "independent_channels_epsilon",
    "join_scores",
    "judge",
    "language_confidence",
    "lira_scores",
    "log_likelihood_ratio",
    "loss_attack",
    "loss_score",
    "lowercase_records",
    "lowercase_score",
    "make_canaries",
    "margin_score",
    "mean_log_probs",
    "mean_upper_limit",
    "mechanism_success_bound",
    "min_k_plus_score",
    "min_k_score",
    "near_rare_word",
    "near_sentence",
    "needs_of",
    "neighbour_log_probs",
    "neighbourhood_score",
    "number_ids",
    "one_run_epsilon",
    "one_run_fdp_epsilon",
    "open_coins",
    "order_scores",
    "owner_loss_attack",
    "plot_roc",
    "plot_training",
    "poison_rates",
    "poisonable",
    "poisoning_markdown",
    "poisoning_page",
    "probable_tokens",
    "ratio_score",
    "read_audit_report",
    "read_canaries",
    "read_manifest",
    "read_scores",
    "refutes_trade_off",
    "render_attack_section",
    "replace_tokens",
    "rmia_log_ratios",
    "rmia_scores",
    "roc_curve",
    "rows_of_others",
    "sampled_extraction",
    "samples_needed",
    "score_attack",
    "score_shadows",
    "seal",
    "shadow_key",
    "statistics_from_logits",
    "suffix_log_probs",
    "target_texts",
    "texts_of",
    "token_statistics",
    "tpr_interval",
    "train_shadows",
    "unused_coordinates",
    "verify_audit_report",
    "wbc_score",
    "with_answer",
    "with_near_trigger",
    "with_trigger",
    "zlib_score",
]
