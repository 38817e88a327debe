"""DP-SGD over shuffled epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.engine.privacy_loss import Releases
from dpjax_accounting.mechanisms.other_samplings.full_batch import FullBatch
from dpjax_accounting.mechanisms.other_samplings.public_size import PublicSize
from dpjax_accounting.mechanisms.stepwise import InEpochs


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShuffledDPSGD(PublicSize, InEpochs):
    """DP-SGD in which every unit takes part in exactly one step of each epoch.

    No amplification is claimed: the order may be known to the adversary. A unit then moves one
    batch sum per epoch, so that an epoch is one Gaussian release, whatever the batch size. Poisson
    figures do not hold for shuffled epochs (Chua et al. 2024, "How Private are DP-SGD
    Implementations?").

    Attributes:
        noise_multiplier: noise standard deviation / clip norm, above 0.
        num_epochs: at least 0.
        unit: "record".
        neighboring: "zero_out" or "replace_one": batches of a fixed size make the number of units
            public.
        num_units: number of privacy units, for whoever makes the run; ε does not depend on it.
        batch_size: units in every batch but the last one of an epoch, which may be smaller; for
            whoever makes the run.
    """

    name: ClassVar[str] = "shuffled_dpsgd"
    optional: ClassVar[tuple[str, ...]] = ("num_units", "batch_size")
    refused_relations: ClassVar[Mapping[str, str]] = {
        "add_or_remove_one": "adding a unit to batches of a fixed size moves other units from one"
        " batch to the next, which no sensitivity of one clip norm covers",
    }

    noise_multiplier: float
    num_epochs: int
    unit: str = "record"
    neighboring: str = "zero_out"
    num_units: int | None = None
    batch_size: int | None = None

    @property
    def says_its_steps(self) -> bool:
        """Whether `num_units` and `batch_size` are given."""
        return self.num_units is not None and self.batch_size is not None

    @property
    def batches_per_epoch(self) -> int:
        """⌈num_units / batch_size⌉; ValueError unless both are given."""
        if self.num_units is None or self.batch_size is None:
            raise ValueError(
                "num_units and batch_size of ShuffledDPSGD say how many steps an epoch has; got"
                f" {self.num_units} and {self.batch_size}. No epsilon depends on them."
            )
        return -(-self.num_units // self.batch_size)

    def releases(self) -> Releases:
        """Returns one Gaussian release per epoch."""
        epochs = FullBatch(
            noise_multiplier=self.noise_multiplier,
            num_steps=self.num_epochs,
            neighboring=self.neighboring,
        )
        return epochs.releases()
