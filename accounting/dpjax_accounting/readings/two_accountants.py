"""ε by both accountants side by side."""

from __future__ import annotations

import dataclasses

from dpjax_accounting.mechanisms.mechanism import Mechanism, NoRenyiDivergence

_WORTH_SHOWING = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Upper bounds on ε by the accountants that a mechanism has; both hold.

    Attributes:
        delta: the δ of both.
        pld: by privacy loss distributions; None where no dominating pair is known.
        rdp: by Rényi divergences; None where none is known.
    """

    delta: float
    pld: float | None
    rdp: float | None

    @property
    def disagree(self) -> bool:
        """Whether both exist and the larger exceeds the smaller by more than 1 %."""
        if self.pld is None or self.rdp is None:
            return False
        return max(self.pld, self.rdp) > (1 + _WORTH_SHOWING) * min(self.pld, self.rdp)


def compare(mechanism: Mechanism, delta: float) -> Comparison:
    """Returns ε of `mechanism` at `delta` by every accountant that it has.

    Args:
        mechanism: any mechanism.
        delta: as for :meth:`Mechanism.epsilon`.

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: as for :meth:`Mechanism.epsilon`.
    """
    pld = mechanism.epsilon(delta) if mechanism.accountant == "pld" else None
    try:
        rdp = mechanism.rdp_epsilon(delta)
    except NoRenyiDivergence:
        rdp = None
    return Comparison(delta=delta, pld=pld, rdp=rdp)
