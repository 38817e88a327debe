"""Local training of a client, and the loss whose gradient is what a client sends to the server.

`client_loss` makes federated averaging a case of DP-SGD with clients as units: give it to
`private_gradient`, `clipped_grad` or `fit` in place of the loss of a record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize import unit_loss

if TYPE_CHECKING:
    import optax


class LocalUpdate(NamedTuple):
    """What local training has come to. All of it is private.

    Attributes:
        update: parameters after the local steps minus parameters before, float32, in the structure
            of the parameters. It is not finite where local training diverged.
        loss: mean over the local steps of the loss of their batch, float32 scalar; 0 of none.
        num_steps: how many local steps were done, int32 scalar.
    """

    update: PyTree
    loss: jax.Array
    num_steps: jax.Array


def local_update(
    loss_fn: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    params: PyTree,
    client: PyTree,
    *shared: PyTree,
    epochs: int = 1,
) -> LocalUpdate:
    """Trains on the batches of one client, and returns how far the parameters have moved.

    Each local step takes the gradient of the mean loss of a batch (McMahan et al. 2017,
    "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv:1602.05629,
    Algorithm 1, ClientUpdate). The optimizer starts afresh for each client and round.

    A client is a dict: `examples`, a pytree whose leaves have two leading axes `(S, b, ...)` for S
    batches of b examples, which `loss_fn` sees without; and `mask`, `(S, b)` bool, True where there
    is an example. S and b are the same for all clients of a `jax.vmap`. A masked example counts for
    nothing, whatever it holds. A batch without any example is no step: neither parameters nor
    optimizer state change.

    Args:
        loss_fn: `(params, example, *shared) -> scalar`.
        optimizer: of the local steps, such as `optax.sgd(0.1)`.
        params: any pytree of floating-point arrays: what is trained.
        client: the batches.
        shared: what else the loss takes, such as frozen parameters.
        epochs: passes over the batches, in the same order.

    Raises:
        ValueError: the client lacks a part, leading axes differ, or `epochs` is below 1.
        TypeError: the mask is not boolean, or a parameter is not floating-point.

    Example:
        Two steps with learning rate ½ towards the mean of two batches, the second with one example.

        >>> import optax
        >>> client = {
        ...     "examples": jnp.array([[1.0, 3.0], [4.0, 9.0]]),
        ...     "mask": jnp.array([[True, True], [True, False]]),
        ... }
        >>> loss = lambda w, x: 0.5 * (w - x) ** 2
        >>> done = local_update(loss, optax.sgd(0.5), jnp.float32(0), client)
        >>> float(done.update), int(done.num_steps)
        (2.5, 2)
    """
    import optax

    _check_epochs(epochs)
    _check_client(client)
    _check_params(params)

    def example_loss(params: PyTree, example: PyTree) -> jax.Array:
        return loss_fn(params, example, *shared)

    loss_and_grad = jax.value_and_grad(unit_loss(example_loss, reduction="mean"))

    def step(at: tuple[PyTree, PyTree], batch: PyTree) -> tuple[Any, Any]:
        before, state = at
        is_step = jnp.any(batch["mask"])
        loss, grads = loss_and_grad(before, batch)
        updates, next_state = optimizer.update(grads, state, before)
        after = optax.apply_updates(before, updates)

        def kept(new: Any, old: Any) -> jax.Array:
            # A loop wants the same type back; optimizers may return a weakly typed count.
            return jnp.where(is_step, new, old).astype(jnp.result_type(old))

        moved = jax.tree.map(kept, (after, next_state), (before, state))
        return moved, (jnp.where(is_step, loss, 0.0), is_step)

    def epoch(at: tuple[PyTree, PyTree], _: None) -> tuple[Any, Any]:
        return jax.lax.scan(step, at, client)

    params = jax.tree.map(jnp.asarray, params)
    (after, _), (losses, is_step) = jax.lax.scan(
        epoch, (params, optimizer.init(params)), length=epochs
    )
    num_steps = jnp.sum(is_step, dtype=jnp.int32)
    return LocalUpdate(
        jax.tree.map(lambda a, b: a.astype(jnp.float32) - b.astype(jnp.float32), after, params),
        jnp.sum(losses) / jnp.maximum(1, num_steps).astype(jnp.float32),
        num_steps,
    )


def client_loss(
    loss_fn: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    *,
    epochs: int = 1,
) -> Callable[..., jax.Array]:
    """Makes a loss of one client whose gradient is its pseudo-gradient: minus its local update.

    A server optimizer may then treat what clients send as a gradient (Reddi et al. 2021, "Adaptive
    Federated Optimization", arXiv:2003.00295, Algorithm 1); `optax.sgd(1.0)` makes it federated
    averaging. `clipped_grad` of it clips the whole update of a client to C, once: clients are the
    units of the guarantee, with any number of records and local steps (McMahan et al. 2018,
    arXiv:1710.06963, Algorithm 1). All clients that were drawn weigh the same: a weight by the
    number of records would multiply what one client may contribute by that number.

    The value is the mean loss over the local steps. It is differentiated by `params` alone, once;
    the clipped sum is computed with `strategy="materialize"` in the least memory.

    Args:
        loss_fn: `(params, example, *shared) -> scalar`.
        optimizer: of the local steps.
        epochs: passes over a client's batches.

    Returns:
        `(params, client, *shared) -> float32 scalar`, for `private_gradient`; the client as
        `local_update` takes it.

    Raises:
        ValueError: `epochs` is below 1. When called, as `local_update`.

    Example:
        Three clients, one round: 2 of 3 are expected, and each moves the sum by at most C = 1.

        >>> import optax
        >>> import dpjax
        >>> from dpjax_accounting import DPSGD
        >>> clients = {"examples": jnp.ones((3, 2, 4, 5)), "mask": jnp.ones((3, 2, 4), bool)}
        >>> private = dpjax.private_gradient(
        ...     client_loss(lambda w, x: jnp.sum((w - x) ** 2), optax.sgd(0.1)),
        ...     mechanism=DPSGD(
        ...         num_units=3, expected_batch_size=2, noise_multiplier=1.0, num_steps=1
        ...     ),
        ...     clip_norm=1.0,
        ...     run_key=dpjax.RunKey.from_os_entropy(),
        ...     strategy="materialize",
        ... )
        >>> params = jnp.zeros(5)
        >>> total = private.zeros(params, 0)
        >>> for rows, mask in private.batches(0, microbatch_size=2):
        ...     cohort = jax.tree.map(lambda leaf: leaf[rows], clients)
        ...     total = private.add(total, params, cohort, mask)
        >>> params = params - private.release(total, 0)
        >>> params.shape
        (5,)
    """
    _check_epochs(epochs)

    @jax.custom_vjp
    def loss(params: PyTree, client: PyTree, shared: tuple[PyTree, ...]) -> jax.Array:
        return local_update(loss_fn, optimizer, params, client, *shared, epochs=epochs).loss

    def forward(
        params: PyTree, client: PyTree, shared: tuple[PyTree, ...]
    ) -> tuple[jax.Array, PyTree]:
        done = local_update(loss_fn, optimizer, params, client, *shared, epochs=epochs)
        like = jax.tree.map(jnp.result_type, params)
        return done.loss, jax.tree.map(lambda u, dtype: -u.astype(dtype), done.update, like)

    def backward(pseudo_gradient: PyTree, cotangent: jax.Array) -> tuple[PyTree, None, None]:
        scaled = jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), pseudo_gradient)
        return scaled, None, None

    loss.defvjp(forward, backward)

    def loss_of_client(params: PyTree, client: PyTree, *shared: PyTree) -> jax.Array:
        return loss(params, client, shared)

    return loss_of_client


def _check_epochs(epochs: int) -> None:
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")


def _check_client(client: PyTree) -> None:
    if not (isinstance(client, dict) and set(client) == {"examples", "mask"}):
        seen = sorted(map(str, client)) if isinstance(client, dict) else type(client).__name__
        raise ValueError(f"a client is a dict of 'examples' and 'mask', got {seen}")
    mask = client["mask"]
    if jnp.result_type(mask) != jnp.bool_:
        raise TypeError(
            f"a client's mask must be boolean (True counts), got dtype {jnp.result_type(mask)}"
        )
    if jnp.ndim(mask) != 2:
        raise ValueError(
            f"a client's mask has the axes of batches and examples (S, b), got {jnp.shape(mask)}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(client["examples"]):
        if jnp.shape(leaf)[:2] != jnp.shape(mask):
            raise ValueError(
                f"examples{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)} in one client, "
                f"its mask {jnp.shape(mask)}: both need the same two leading axes (S, b)"
            )


def _check_params(params: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} has dtype {jnp.result_type(leaf)}: local "
                "training moves floating-point parameters; give the others as `shared`"
            )
