"""What every mechanism answers, and its description as a dictionary that can be read back."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dpjax_accounting.checks import check_common_fields, nearest
from dpjax_accounting.engine.answer_cache import remembered
from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.privacy_loss import (
    SMALLEST_DELTA,
    Releases,
    check_delta,
    checked_epsilon,
    privacy_loss,
)
from dpjax_accounting.engine.releases import RELATIONS
from dpjax_accounting.engine.renyi import (
    ORDERS,
    delta_of_rdp,
    epsilon_of_rdp,
    orders_for,
    rdp_of_releases,
)

_KINDS: dict[str, type[Mechanism]] = {}


class NoRenyiDivergence(ValueError):
    """No Rényi divergence is known for a mechanism."""


class Mechanism(abc.ABC):
    """A frozen description of what is released, whose (ε, δ) can be computed.

    Every concrete mechanism is a frozen dataclass: equal descriptions are equal and hash equally.

    Attributes:
        name: the mechanism's name in dictionaries, such as "dpsgd".
        unit: the privacy unit, such as "record".
        neighboring: the relation between data sets that must not be told apart, such as
            "add_or_remove_one".
        units: what `unit` may be.
        relations: what `neighboring` may be.
        refused_units: why other units are refused, by their names.
        refused_relations: why other relations are refused, by their names.
        optional: fields that no ε depends on; they may be None, and are then in no dictionary.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range, or a name unknown or not supported.
    """

    name: ClassVar[str]
    units: ClassVar[tuple[str, ...]] = ("record",)
    relations: ClassVar[tuple[str, ...]] = RELATIONS
    refused_units: ClassVar[Mapping[str, str]] = {}
    refused_relations: ClassVar[Mapping[str, str]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    if TYPE_CHECKING:
        # Fields of most mechanisms, and properties of those that consist of others.
        @property
        def unit(self) -> str: ...  # noqa: D102

        @property
        def neighboring(self) -> str: ...  # noqa: D102

    def __post_init__(self) -> None:
        """Checks every field that mechanisms share by name, and turns numbers into Python's."""
        check_common_fields(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes mechanisms that have a name known to :func:`mechanism_from_dict`."""
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            _KINDS[cls.name] = cls

    @abc.abstractmethod
    def releases(self) -> Releases | None:
        """Returns every noisy release with its count; None where no dominating pair is known.

        Where it is None, :meth:`rdp` is not, and ε and δ rest on it.
        """

    def rdp(self, orders: Array) -> Array:
        """Returns the Rényi divergence at each of `orders`, all above 1; an upper bound.

        Raises:
            NoRenyiDivergence: if none is known for this mechanism.
        """
        releases = self.releases()
        if releases is None:
            raise NotImplementedError(f"{type(self).__name__} must say what its rdp is.")
        return rdp_of_releases(releases, orders)

    @property
    def accountant(self) -> str:
        """What ε and δ rest on: "pld" (privacy loss distributions) or "rdp" (Rényi)."""
        return "rdp" if self.releases() is None else "pld"

    def epsilon(self, delta: float) -> float:
        """Returns an ε such that the mechanism is (ε, delta)-differentially private.

        Args:
            delta: between 0 and 1, at least 1e-25.

        Raises:
            TypeError: if `delta` is not a number.
            ValueError: if `delta` is out of range, or the loss too large to account for.
        """
        return remembered(self, "epsilon", delta, self._computed_epsilon)

    def _computed_epsilon(self, delta: float) -> float:
        releases = self.releases()
        if releases is None:
            return self.rdp_epsilon(delta)
        return privacy_loss(releases).epsilon(delta)

    def delta(self, epsilon: float) -> float:
        """Returns a δ such that the mechanism is (epsilon, δ)-differentially private.

        It is never below 1e-25, except that nothing released gives exactly 0.

        Args:
            epsilon: at least 0.

        Raises:
            TypeError: if `epsilon` is not a number.
            ValueError: if `epsilon` is negative or not finite, or the loss too large to account
                for.
        """
        return remembered(self, "delta", epsilon, self._computed_delta)

    def _computed_delta(self, epsilon: float) -> float:
        releases = self.releases()
        if releases is None:
            delta = delta_of_rdp(ORDERS, self.rdp(ORDERS), checked_epsilon(epsilon))
            # An underflow to 0 would be no bound.
            return max(delta, SMALLEST_DELTA)
        return privacy_loss(releases).delta(epsilon)

    def rdp_epsilon(self, delta: float) -> float:
        """Returns an ε at `delta` by Rényi differential privacy: an upper bound, often looser.

        Raises:
            TypeError: if `delta` is not a number.
            ValueError: if `delta` is out of range.
            NoRenyiDivergence: if none is known for this mechanism.
        """
        delta = check_delta(delta)
        releases = self.releases()
        if releases == ():
            return 0.0
        orders = ORDERS if releases is None else orders_for(releases)
        return epsilon_of_rdp(orders, self.rdp(orders), delta)

    def to_dict(self) -> dict[str, Any]:
        """Returns the mechanism's name and every field, ready for JSON."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        for name in self.optional:
            if fields[name] is None:
                del fields[name]
        return {"mechanism": self.name, **fields}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Returns the mechanism described by `to_dict`'s output.

        Raises:
            ValueError: if a name is unknown (the nearest valid one is given) or missing, or a value
                is refused by the constructor.
        """
        known = ["mechanism", *(field.name for field in dataclasses.fields(cls))]
        for name in fields:
            if name not in known:
                raise ValueError(
                    f"{cls.__name__} has no field {name!r}.{nearest(str(name), known)}"
                    f" Its fields: {', '.join(known)}."
                )
        missing = [name for name in known if name not in fields and name not in cls.optional]
        if missing:
            raise ValueError(
                f"The description of a {cls.__name__} mechanism lacks {', '.join(missing)}."
            )
        if fields["mechanism"] != cls.name:
            raise ValueError(
                f"This describes a mechanism {fields['mechanism']!r}, not {cls.name!r}. Read it"
                " with dpjax_accounting.mechanism_from_dict."
            )
        return cls(**{k: _restored(v) for k, v in fields.items() if k != "mechanism"})


def mechanism_from_dict(fields: object) -> Mechanism:
    """Returns the mechanism, of whatever kind, that `to_dict` described.

    Raises:
        TypeError: if `fields` is not a dictionary.
        ValueError: if the mechanism's name or a field's is unknown (the nearest valid one is given)
            or missing, or a value is refused.
    """
    if not isinstance(fields, Mapping):
        raise TypeError(f"A mechanism's description must be a dictionary; got {fields!r}.")
    if "mechanism" not in fields:
        raise ValueError(
            "The description has no field 'mechanism', which says what kind it is. Known kinds:"
            f" {', '.join(sorted(_KINDS))}."
        )
    name = fields["mechanism"]
    if name not in _KINDS:
        raise ValueError(
            f"mechanism={name!r} is not known.{nearest(str(name), _KINDS)} Known kinds:"
            f" {', '.join(sorted(_KINDS))}."
        )
    return _KINDS[name].from_dict(fields)


def _plain(value: Any) -> Any:
    if isinstance(value, Mechanism):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping) and "mechanism" in value:
        return mechanism_from_dict(value)
    return tuple(_restored(item) for item in value) if isinstance(value, list) else value
