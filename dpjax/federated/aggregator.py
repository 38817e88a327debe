"""Private aggregation of updates that were computed elsewhere, such as by clients of Flower."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize import ClippingRule, PrivateGradient, RunKey, private_gradient

# Updates are stacked and clipped so many at once, whatever their number.
_AT_ONCE = 16


class PrivateAggregator:
    """Turns the updates of a cohort into their noisy mean, with the guarantee for a client.

    It says who takes part in a round, clips each update to C, and adds noise once: (Σᵢ cᵢ Δᵢ +
    N(0, σ²C²)) / B with B the expected cohort size (McMahan et al. 2018, "Learning Differentially
    Private Recurrent Language Models", arXiv:1710.06963, Algorithm 1). Clients weigh the same,
    whatever they have trained on. It runs on the server, which sees updates without noise and must
    be trusted.

    The claim holds if the clients of each round are those of `cohort`, nobody learns who they were,
    and nothing else of the updates leaves the server. A client that does not answer contributes
    zero; which client answers may depend on its own data alone.

    Which rounds are released, one object in one process knows. Where a server starts again, it
    needs a fresh key, and ε of what was released before adds up with what comes.

    Args:
        like: a pytree of arrays: structure and shapes of an update.
        mechanism: what the accountant counts, with clients as units: `num_units` of them, the
            expected cohort size as `expected_batch_size`, rounds as `num_steps`.
        run_key: the secret of this training, `RunKey.from_os_entropy()`.
        clip_norm: C > 0, the most that a client contributes, in L2 norm.
        rule: instead of `clip_norm`.

    Raises:
        TypeError, ValueError: as `private_gradient`; or `like` has no array, or a leaf that
            is not a floating-point array.

    Example:
        >>> from dpjax_accounting import DPSGD
        >>> rounds = DPSGD(
        ...     num_units=100, expected_batch_size=10, noise_multiplier=1.0, num_steps=5
        ... )
        >>> server = PrivateAggregator(
        ...     [np.zeros((3, 2)), np.zeros(2)],
        ...     mechanism=rounds,
        ...     run_key=RunKey.from_os_entropy(),
        ...     clip_norm=0.5,
        ... )
        >>> answers = {c: [np.ones((3, 2)), np.ones(2)] for c in server.cohort(0).tolist()}
        >>> mean = server.aggregate(answers, 0)
        >>> [leaf.shape for leaf in mean], round(rounds.epsilon(1e-3), 1)
        ([(3, 2), (2,)], 1.2)
    """

    def __init__(
        self,
        like: PyTree,
        *,
        mechanism: Mechanism,
        run_key: RunKey,
        clip_norm: float | None = None,
        rule: ClippingRule | None = None,
    ) -> None:
        if not jax.tree.leaves(like):
            raise ValueError("like must have an array at least, got none: an update would be empty")
        for path, leaf in jax.tree_util.tree_leaves_with_path(like):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"like{jax.tree_util.keystr(path)} must be floating-point, got dtype "
                    f"{jnp.result_type(leaf)}. Leave out of updates what is not trained"
                )
        bounds: dict[str, Any] = {"clip_norm": clip_norm, "rule": rule}
        given = {name: value for name, value in bounds.items() if value is not None}
        private = private_gradient(
            _product, mechanism=mechanism, run_key=run_key, strategy="materialize", **given
        )
        if not isinstance(private, PrivateGradient):
            raise TypeError(
                f"rule must have a constant clip norm, got {rule!r}. Give clip_norm, or take "
                "private_gradient with AdaptiveClipping"
            )
        self._private = private
        self._zeros = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), np.float32), like)

    def cohort(self, round_number: int) -> np.ndarray:
        """Returns who takes part in a round: `(n,)` int64, numbers in `range(num_units)`.

        It is secret, may be empty, and is the same whenever it is asked for.

        Raises:
            TypeError: the round is not an integer.
            ValueError: the mechanism has no such round.
        """
        drawn = [
            rows[mask]
            for rows, mask in self._private.batches(round_number, microbatch_size=_AT_ONCE)
        ]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *drawn]))

    def aggregate(self, updates: Mapping[int, PyTree], round_number: int) -> PyTree:
        """Returns the noisy mean of the updates of a round, once: float32, structured as `like`.

        Updates are parameters after local training minus parameters before: the server adds their
        mean to its own, or gives minus the mean to an optimizer as a gradient. An update that is
        not finite contributes zero, as such gradients do elsewhere, and a warning tells how many.

        Args:
            updates: by the number of the client, pytrees of NumPy or JAX arrays; of clients of
                `cohort(round_number)`, and none of others.
            round_number: counted from 0.

        Raises:
            TypeError: `updates` is no mapping from whole numbers, an update has another structure
                than `like` or a leaf that is not floating-point, or the round is no integer.
            ValueError: an update has other shapes, a client was not drawn, the mechanism has no
                such round, or the round has been released before.
        """
        _check_clients(updates)
        drawn = self.cohort(round_number)
        strangers = sorted(set(updates) - set(drawn.tolist()))
        if strangers:
            raise ValueError(
                f"updates has client {strangers[0]}, which was not drawn in round {round_number}: "
                "the accountant counts on those of cohort(round_number) alone. Leave it out"
            )
        missing = [self._zeros] * (len(drawn) - len(updates))
        answers = [self._checked(client, update) for client, update in updates.items()] + missing
        total = self._private.zeros(self._zeros, round_number)
        for first in range(0, len(answers), _AT_ONCE):
            some = answers[first : first + _AT_ONCE]
            rows = [*some, *[self._zeros] * (_AT_ONCE - len(some))]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
            mask = np.arange(_AT_ONCE) < len(some)
            total = self._private.add(total, self._zeros, stacked, jnp.asarray(mask))
        num_nonfinite = int(total.num_nonfinite)
        mean = self._private.release(total, round_number)
        if num_nonfinite:
            warnings.warn(
                f"{num_nonfinite} of {len(drawn)} updates of round {round_number} are not finite "
                "and contributed zero. This number is private",
                stacklevel=2,
            )
        return mean

    def _checked(self, client: int, update: PyTree) -> PyTree:
        given: Any = jax.tree.structure(update)
        wanted: Any = jax.tree.structure(self._zeros)
        if given != wanted:
            raise TypeError(
                f"the update of client {client} must have the structure {wanted}, got {given}"
            )

        def checked(path: Any, leaf: Any, like: np.ndarray) -> np.ndarray:
            if np.shape(leaf) != like.shape:
                raise ValueError(
                    f"the update of client {client} must have shape {like.shape} at "
                    f"{jax.tree_util.keystr(path)}, got {np.shape(leaf)}"
                )
            if not jnp.issubdtype(np.asarray(leaf).dtype, jnp.floating):
                raise TypeError(
                    f"the update of client {client} must be floating-point at "
                    f"{jax.tree_util.keystr(path)}, got dtype {np.asarray(leaf).dtype}"
                )
            # What float32 does not hold becomes infinite, and the update contributes zero.
            with np.errstate(over="ignore"):
                return np.asarray(leaf, np.float32)

        return jax.tree_util.tree_map_with_path(checked, update, self._zeros)


def _check_clients(updates: object) -> None:
    """Raises TypeError unless `updates` is a mapping from numbers of clients."""
    if not isinstance(updates, Mapping):
        raise TypeError(
            "updates must map the number of each client to its update, got "
            f"{type(updates).__name__}"
        )
    for client in updates:
        if isinstance(client, bool) or not isinstance(client, (int, np.integer)):
            raise TypeError(
                f"updates must be by numbers of clients, those of cohort(round), got {client!r}"
            )


def _product(params: PyTree, update: PyTree) -> jax.Array:
    """A loss whose gradient is the update."""
    products = jax.tree.map(lambda p, u: jnp.sum(p * u), params, update)
    return sum(jax.tree.leaves(products), jnp.float32(0))
