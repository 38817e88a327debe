"""Attacks on a tuned model, their uncertainty, and what (ε, δ) would allow them to reach."""

from dpjax.audit.membership.attack import AttackResult as AttackResult
from dpjax.audit.membership.attack import loss_attack as loss_attack
from dpjax.audit.membership.attack import score_attack as score_attack
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
from dpjax.audit.reports.plots import plot_roc as plot_roc
from dpjax.audit.reports.plots import plot_training as plot_training

__all__ = [
    "AttackResult",
    "RocCurve",
    "auc",
    "auc_ceiling",
    "auc_interval",
    "binomial_interval",
    "ceiling_alarms",
    "exceeds_ceiling",
    "loss_attack",
    "plot_roc",
    "plot_training",
    "render_attack_section",
    "roc_curve",
    "score_attack",
    "tpr_interval",
]
