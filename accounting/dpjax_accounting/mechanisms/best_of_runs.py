"""The best of a random number of runs, such as of a search for hyper-parameters."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

from dpjax_accounting.checks import checked_name, checked_real, set_fields
from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.renyi import ORDERS, delta_of_rdp
from dpjax_accounting.mechanisms.mechanism import Mechanism

_DISTRIBUTIONS = ("geometric", "logarithmic", "poisson")
_REFUSED = {
    "fixed": "with a number of runs that is fixed beforehand, releasing the best costs as much as"
    " releasing all of them: describe it as a Composition",
}


@dataclasses.dataclass(frozen=True)
class BestOfRuns(Mechanism):
    """A random number of independent runs of a mechanism, of which only the best is released.

    The hyper-parameters of each run are drawn at random, independently of the data and of the other
    runs. "Best" may be any function of the run's output, and of the private data if computing it
    is part of the mechanism. The number of runs is drawn from `distribution`, and stays secret
    (Papernot and Steinke 2022, "Hyperparameter Tuning with Renyi Differential Privacy").

    Attributes:
        run: one run; with runs of different cost, the one that loses most at every order.
        mean_runs: the mean number of runs, above 1.
        distribution: "geometric" or "logarithmic" (truncated negative binomial with shape 1 and 0,
            theorem 2: never no run), or "poisson" (theorem 6: no run at all is possible).

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range, or a name unknown or not supported.
    """

    name: ClassVar[str] = "best_of_runs"

    run: Mechanism
    _: dataclasses.KW_ONLY
    mean_runs: float
    distribution: str = "geometric"

    def __post_init__(self) -> None:
        """Checks every field."""
        if not isinstance(self.run, Mechanism):
            raise TypeError(f"run must be a mechanism; got {self.run!r}.")
        mean = checked_real("mean_runs", self.mean_runs)
        if mean <= 1:
            raise ValueError(
                f"mean_runs must be above 1; got {mean:g}. A single run needs no selection."
            )
        set_fields(
            self,
            mean_runs=mean,
            distribution=checked_name("distribution", self.distribution, _DISTRIBUTIONS, _REFUSED),
        )

    @property
    def unit(self) -> str:
        """The privacy unit of one run."""
        return self.run.unit

    @property
    def neighboring(self) -> str:
        """The neighbouring relation of one run."""
        return self.run.neighboring

    def releases(self) -> None:
        """Returns None: only Rényi bounds are known."""

    def rdp(self, orders: Array) -> Array:
        """Returns the bound of theorem 2 or 6, as for :meth:`Mechanism.rdp`."""
        more: Array = self.run.rdp(orders) + math.log(self.mean_runs) / (orders - 1)
        reference = self.run.rdp(ORDERS)
        if self.distribution == "poisson":
            deltas = [delta_of_rdp(ORDERS, reference, math.log1p(1 / (a - 1))) for a in orders]
            more += self.mean_runs * np.array(deltas)
            return more
        shape, gamma = _negative_binomial(self.distribution, self.mean_runs)
        extra = (1 - 1 / ORDERS) * reference - math.log(gamma) / ORDERS
        return more + (1 + shape) * float(extra.min())


def _negative_binomial(distribution: str, mean: float) -> tuple[float, float]:
    """Returns η and γ of the truncated negative binomial with this mean (definition 1)."""
    from scipy import optimize

    if distribution == "geometric":
        return 1.0, 1 / mean

    def excess(log_inverse: float) -> float:
        # log((e^x − 1) / x) as x/2 + log(sinh(x/2) / (x/2)), which keeps its digits at small x.
        half = log_inverse / 2
        return half + math.log(math.sinh(half) / half) - math.log(mean)

    # The mean of a logarithmic distribution lies between e^{x/2} and e^x.
    low, high = math.log(mean), min(3 * math.log(mean), 700.0)
    return 0.0, math.exp(-optimize.brentq(excess, low, high, xtol=1e-18))
