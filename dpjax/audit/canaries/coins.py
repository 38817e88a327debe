"""Secret coins: which canaries are trained on, and which records are left out."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from dpjax.audit.canaries.sealing import commitment
from dpjax.basics.option_checks import did_you_mean
from dpjax.privatize import RunKey

Purpose = Literal["canary", "hold-out"]
# What the coins of an audit are flipped for, in words.
Audited = Literal["canaries", "records"]
FAIR = 0.5


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Coins:
    """One coin for each id. `repr` does not show how they fell.

    Only two places read `included`, `members` and `controls`: the one that adds canaries to the
    training records, and the one that compares scores after they are final.

    Attributes:
        ids: N different ids.
        included: `(N,)` bool, True where the coin says that training uses the record.
        probability_out: the probability that a coin says "out".
        salt: 32 secret bytes of the commitment.
        fixed_seed: whether the coins come from a seed that somebody chose. They are then no secret,
            and whoever chose the seed chose them.
    """

    ids: tuple[str, ...]
    included: np.ndarray
    probability_out: float
    salt: bytes
    fixed_seed: bool

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Coins({len(self)} ids, probability_out={self.probability_out})"

    @property
    def is_fair(self) -> bool:
        """Whether both sides have probability ½, on which certified bounds rest."""
        return self.probability_out == FAIR

    @property
    def members(self) -> tuple[str, ...]:
        """The ids whose coin says "in"."""
        return tuple(name for name, is_in in zip(self.ids, self.included, strict=True) if is_in)

    @property
    def controls(self) -> tuple[str, ...]:
        """The ids whose coin says "out": of the same family, but never trained on."""
        return tuple(name for name, is_in in zip(self.ids, self.included, strict=True) if not is_in)

    def commitment(self) -> str:
        """Returns the hash that fixes ids and coins without showing them."""
        value = {
            "ids": list(self.ids),
            "included": self.included.tolist(),
            "probability_out": self.probability_out,
        }
        return commitment(value, self.salt)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, ready for strict JSON; private."""
        return {
            "ids": list(self.ids),
            "included": self.included.tolist(),
            "probability_out": self.probability_out,
            "salt": self.salt.hex(),
            "fixed_seed": self.fixed_seed,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Coins:
        """Returns the coins that `to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: it does not describe coins.
        """
        included, ids = fields["included"], check_ids(fields["ids"])
        if len(included) != len(ids) or any(type(is_in) is not bool for is_in in included):
            raise ValueError("included must be true or false for each id")
        return cls(
            ids=ids,
            included=np.array(included, np.bool_),
            probability_out=float(fields["probability_out"]),
            salt=bytes.fromhex(fields["salt"]),
            fixed_seed=bool(fields["fixed_seed"]),
        )


class HoldOut(NamedTuple):
    """Records that coins have split.

    Attributes:
        members: the ids to train on.
        non_members: the ids to leave out.
        coins: what decided, for the manifest.
    """

    members: tuple[str, ...]
    non_members: tuple[str, ...]
    coins: Coins


def flip_coins(ids: Sequence[str], *, run_key: RunKey) -> Coins:
    """Flips one independent fair coin for each canary.

    Each coin is one keyed hash of the canary's id under the secret of the run, a stream of its own:
    it depends on no other id, no order and no other draw of the run, and nothing that a run
    publishes tells anything about it. The same key and ids give the same coins, as a resumed run
    needs. Bounds from one run rest on these coins (Steinke, Nasr and Jagielski 2023, "Privacy
    Auditing with One (1) Training Run", section 3).

    Args:
        ids: of the canaries, different from each other.
        run_key: the secret of the run.

    Returns:
        the coins, sealed.

    Raises:
        ValueError: there is no id, one occurs twice, or one is not a string with something in it.

    Example:
        >>> coins = flip_coins(["a", "b", "c", "d"], run_key=RunKey.from_seed(1))
        >>> coins
        Coins(4 ids, probability_out=0.5)
        >>> sorted(coins.members + coins.controls)
        ['a', 'b', 'c', 'd']
    """
    return _flip(ids, run_key, "canary", FAIR)


def hold_out(ids: Sequence[str], *, run_key: RunKey, probability_out: float = FAIR) -> HoldOut:
    """Leaves each record out of training by a coin of its own.

    Members and non-members then come from one random split of one data set. With fair coins
    (`probability_out=0.5`) the bounds for canaries hold for these records too; with another
    probability every result is descriptive.

    Args:
        ids: of the records, different from each other. A public manifest lists them, so give
            numbers of rows and not names of people.
        run_key: the secret of the run. The coins differ from those of canaries with the same ids.
        probability_out: the probability with which a record is left out, between 0 and 1.

    Returns:
        the ids on both sides in their order, and the coins.

    Raises:
        ValueError: as for `flip_coins`, or the probability is not between 0 and 1.

    Example:
        >>> split = hold_out(["0", "1", "2", "3"], run_key=RunKey.from_seed(1))
        >>> len(split.members) + len(split.non_members), split.coins.is_fair
        (4, True)
    """
    if not (math.isfinite(probability_out) and 0 < probability_out < 1):
        raise ValueError(
            f"probability_out must be between 0 and 1, got {probability_out}. Use 0.5 for bounds "
            "that are certified"
        )
    coins = _flip(ids, run_key, "hold-out", probability_out)
    return HoldOut(coins.members, coins.controls, coins)


def order_scores(ids: Sequence[str], scores: Mapping[str, float]) -> np.ndarray:
    """Puts scores into the order of the coins, by id. No coin has to be open for it.

    Args:
        ids: of all coins, as the manifest has them.
        scores: one number for each id; ±inf may be one.

    Returns:
        `(N,)` float64, in the order of `ids`: with `Coins.included` what `epsilon_from_scores`
        takes.

    Raises:
        ValueError: an id has no score, a score has an id that no coin has, or a score is NaN.

    Example:
        >>> order_scores(["a", "b"], {"b": 2.0, "a": 1.0}).tolist()
        [1.0, 2.0]
    """
    missing = [name for name in ids if name not in scores]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} ids have no score, such as {missing[0]!r}. Score "
            "every canary, whichever way its coin fell"
        )
    unknown = sorted(scores.keys() - set(ids))
    if unknown:
        hint = did_you_mean(unknown[0], ids)
        raise ValueError(
            f"{len(unknown)} scores have ids that no coin has, such as {unknown[0]!r}.{hint} Give "
            "scores of canaries alone"
        )
    values = np.array([scores[name] for name in ids], np.float64)
    if np.isnan(values).any():
        name = ids[int(np.flatnonzero(np.isnan(values))[0])]
        raise ValueError(f"the score of {name!r} is NaN. A canary without a number ends the audit")
    return values


def check_ids(ids: Sequence[str]) -> tuple[str, ...]:
    """Returns the ids, checked: some, all strings, none empty, none twice.

    Raises:
        ValueError: naming the first that does not fit.
    """
    if isinstance(ids, str) or not len(ids):
        raise ValueError(f"ids must be one string for each record, got {ids!r}")
    for name in ids:
        if not isinstance(name, str) or not name.strip() or not _is_unicode(name):
            raise ValueError(f"ids must be strings with something in them, got {name!r}")
    name, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise ValueError(f"ids must be different, got {name!r} {count} times")
    return tuple(ids)


def _flip(ids: Sequence[str], run_key: RunKey, purpose: Purpose, probability_out: float) -> Coins:
    names = check_ids(ids)
    # Exact: a float times a power of two.
    first_in = int(probability_out * 2**64)
    draws = (
        int.from_bytes(run_key.audit_bytes(f"coin/{purpose}/{name}", 8), "big") for name in names
    )
    return Coins(
        ids=names,
        included=np.fromiter((draw >= first_in for draw in draws), np.bool_, len(names)),
        probability_out=float(probability_out),
        salt=run_key.audit_bytes(f"salt/coins/{purpose}", 32),
        fixed_seed=run_key.fixed_seed is not None,
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
