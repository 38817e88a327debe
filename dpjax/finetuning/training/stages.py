"""The stages of a run: what each of them trains, and what it starts from."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax.basics.typing import PyTree
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.setup.steps import make_run_optimizer
from dpjax.training import ClipNormState, average_of


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a run, and where its training has come to.

    Attributes:
        run: as of this stage alone: its plan, and the model split by what the stage trains.
        optimizer: of this stage.
        params: what is trained.
        state: of the optimizer.
    """

    run: Run
    optimizer: Any
    params: PyTree
    state: Any

    @property
    def exported(self) -> PyTree:
        """What is trained, or its moving average where that is asked for."""
        return exported(self.run.plan, self.params, self.state)


def stages_left(run: Run) -> tuple[Plan, ...]:
    """Returns the stages of a run that are to be trained, the one of the stored state first.

    A state after the last step of a stage belongs to that stage.
    """
    stages = run.plan.stages
    if len(stages) == 1:
        return stages
    step = run.checkpoints.find().step
    return tuple(stage for stage in stages if step <= stage.num_steps)


def begin_stage(run: Run, plan: Plan, before: Stage | None = None) -> Stage:
    """Starts a stage with an optimizer of its own.

    Args:
        run: the whole run, with its model where it is computed.
        plan: of the stage.
        before: the stage whose head it goes on with; None for that of the run's model.
    """
    model = run.model
    if before is not None:
        model = model.replace(trainable=model.trainable | before.exported)
    if plan is not run.plan:
        model = model.training_only(plan.head)
    of_stage = dataclasses.replace(run, plan=plan, model=model)
    optimizer, layout = make_run_optimizer(plan), run.layout
    if layout is None:
        state = optimizer.init(model.trainable)
    else:
        state = layout.init_state(optimizer.init, model.trainable)
    return Stage(of_stage, optimizer, model.trainable, state)


def exported(plan: Plan, params: PyTree, state: Any) -> PyTree:
    """Returns the parameters, or their moving average where that is asked for."""
    if plan.config.training.ema_decay is None:
        return params
    return average_of(state.optimizer if isinstance(state, ClipNormState) else state, params)
