"""Attacks on a tuned model, their uncertainty, and what (ε, δ) would allow them to reach."""

from dpjax.audit.attack import AttackResult as AttackResult
from dpjax.audit.attack import loss_attack as loss_attack
from dpjax.audit.attack import score_attack as score_attack
from dpjax.audit.ceiling import auc_ceiling as auc_ceiling
from dpjax.audit.ceiling import ceiling_alarms as ceiling_alarms
from dpjax.audit.ceiling import exceeds_ceiling as exceeds_ceiling
from dpjax.audit.intervals import auc_interval as auc_interval
from dpjax.audit.intervals import binomial_interval as binomial_interval
from dpjax.audit.intervals import tpr_interval as tpr_interval
from dpjax.audit.plots import plot_roc as plot_roc
from dpjax.audit.plots import plot_training as plot_training
from dpjax.audit.report import render_attack_section as render_attack_section
from dpjax.audit.roc import RocCurve as RocCurve
from dpjax.audit.roc import auc as auc
from dpjax.audit.roc import roc_curve as roc_curve

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
