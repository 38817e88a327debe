"""What each task says of its canaries is known to the options and to the makers."""

from typing import get_args

from dpjax.audit import CANARY_KINDS
from dpjax.finetuning.config import CanaryKindName, ScoreName
from dpjax.finetuning.tasks.registry import TASKS


def test_the_options_name_every_kind_of_canaries_and_every_score():
    kinds = {kind for task in TASKS.values() for kind in task.canary_kinds}
    assert set(get_args(CanaryKindName)) == {"auto", *kinds}
    assert kinds <= CANARY_KINDS.keys()
    scores = {score for task in TASKS.values() for score in task.audit_scores}
    assert set(get_args(ScoreName)) == {"auto", *scores}
