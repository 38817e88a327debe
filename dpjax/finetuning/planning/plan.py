"""`dpjax.plan`: what a run would cost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dpjax.finetuning.config import PlanConfig

if TYPE_CHECKING:
    from dpjax.finetuning.planning.forecast import Forecast


def plan(**options: Any) -> Forecast:
    """Says what a run would cost in noise, memory and time; nothing is trained or written.

    Takes the options of `dpjax.finetune`, and `num_units`, `batch_sizes` and `measure`. Without a
    model it plans the noise alone. With one, the real programs of a step are compiled for shapes:
    no weights are read. Memory is what the compiler of this backend says; another backend's
    programs need another amount.

    Returns:
        The noise of several batch sizes and the memory of a step; `advice` has it in sentences.

    Raises:
        TypeError: an option is unknown, or its value has the wrong type.
        FileNotFoundError, ValueError: what is given does not exist or does not fit, or
            training.microbatch_size=auto finds no size that fits.

    Example:
        >>> import dpjax
        >>> forecast = dpjax.plan(
        ...     num_units=4000,
        ...     privacy={"target_epsilon": 3.0},
        ...     training={"num_steps": 1000},
        ...     batch_sizes=[64, 256],
        ... )
        >>> [round(choice.noise_multiplier, 2) for choice in forecast.choices]
        [1.01, 2.95]
        >>> 150 < forecast.flat_from < 250
        True
    """
    from dpjax.finetuning.planning.make import make_forecast

    paths = {name: os.fspath(options[name]) for name in ("model", "output_dir") if name in options}
    return make_forecast(PlanConfig.from_options(options | paths))
