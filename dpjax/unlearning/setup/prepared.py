"""An unlearning that has passed its checks."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from dpjax.data import LanguageDataset
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.measures.truth_ratio import QuestionTexts
from dpjax.unlearning.setup.folder import UnlearningFolder
from dpjax.unlearning.setup.forget_set import ForgetSet
from dpjax.unlearning.setup.tuned_run import TunedRun


@dataclasses.dataclass(frozen=True)
class Unlearning:
    """An unlearning that has passed its checks; no model is loaded yet.

    Attributes:
        config: what was asked for.
        run: whose model is to forget.
        forget_set: the rows to forget, and the others.
        folder: where it writes.
        resumes: whether it goes on with what is there.
        questions: about the forget set, for the truth ratio; None without them.
    """

    config: UnlearnConfig
    run: TunedRun
    forget_set: ForgetSet
    folder: UnlearningFolder
    resumes: bool
    questions: QuestionTexts | None

    @functools.cached_property
    def forget(self) -> LanguageDataset:
        """The records to forget that have a target: the run has learnt nothing of the others."""
        return with_targets(self.run.train.take(self.forget_set.forget))

    @functools.cached_property
    def retain(self) -> LanguageDataset:
        """The retained records that have a target."""
        return with_targets(self.run.train.take(self.forget_set.retain))

    @property
    def num_steps(self) -> int:
        """How many steps the passes over the forget set take, or the certificate is of."""
        if self.config.is_certified:
            return self.config.certified.to_steps().num_steps
        size = min(self.config.batch_size, len(self.forget), len(self.retain))
        return max(1, math.ceil(self.config.num_passes * len(self.forget) / size))


def with_targets(records: LanguageDataset) -> LanguageDataset:
    """Returns the records that have a target."""
    return records.take(np.flatnonzero(~records.without_targets))
