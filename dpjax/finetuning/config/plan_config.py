"""What `dpjax plan` is asked: the options of a run, few of which have to be given."""

from __future__ import annotations

import dataclasses

from dpjax.basics.option_checks import check_at_least
from dpjax.data import DataSource
from dpjax.finetuning.config.finetune_config import FinetuneConfig

_NOT_GIVEN = DataSource("(none)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig(FinetuneConfig):
    """Say what a run would cost in noise, memory and time; nothing is trained or written.

    Takes the options of a run. Without a model it plans the noise alone.

    Example:
        >>> from dpjax.finetuning import Privacy
        >>> config = PlanConfig(num_units=4000, privacy=Privacy(target_epsilon=3.0))
        >>> config.has_model, config.has_data
        (False, False)
    """

    model: str = ""
    """Hugging Face checkpoint: a local folder or a hub id; default: none, noise alone is planned.
    """
    train_data: DataSource = _NOT_GIVEN
    """The private records: they are counted, and a model's labels are read."""
    eval_data: DataSource = _NOT_GIVEN
    """Held-out records; default: train_data, of which a plan shows nothing."""
    output_dir: str = ""
    """Nothing is written: it is taken so that the options of a run can stay."""
    num_units: int | None = None
    """Number of training records, where there is no train_data."""
    batch_sizes: tuple[int, ...] = ()
    """Expected batch sizes to compare; default: powers of two times that of the run."""
    measure: bool = False
    """Run one step, on zeros instead of the weights, and say how long a run takes."""

    @property
    def has_model(self) -> bool:
        """Whether memory and numbers of parameters can be planned."""
        return self.model != ""

    @property
    def has_data(self) -> bool:
        """Whether the records are counted."""
        return self.train_data != _NOT_GIVEN

    @property
    def with_eval_data(self) -> PlanConfig:
        """The same with training records in the place of held-out ones that are not given."""
        if self.eval_data != _NOT_GIVEN:
            return self
        train = dataclasses.replace(self.train_data, owner_column=None)
        return dataclasses.replace(self, eval_data=train)

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        super().check()
        check_at_least("num_units", self.num_units, 1)
        for size in self.batch_sizes:
            check_at_least("batch_sizes", size, 1)
        if self.has_data and self.num_units is not None:
            raise ValueError(
                f"num_units={self.num_units} is counted in train_data={self.train_data.path}: give "
                "one of them"
            )
        if self.has_model and not self.has_data:
            raise ValueError(
                f"train_data is missing: a plan with model={self.model} counts its records and "
                "reads its labels. Give train_data; or num_units and no model, for the noise alone"
            )
        if not self.has_data and self.num_units is None:
            raise ValueError(
                "give num_units, the number of training records, or train_data, which has them"
            )
        for name in ("measure", "non_private"):
            if getattr(self, name) and not self.has_model:
                raise ValueError(
                    f"{name}=True needs a model: without one noise is all that can be planned. "
                    "Give model and train_data, or leave it out"
                )
