"""Losses of one example: language models, with the vocabulary in chunks, and classifiers.

Every function sees one example without a batch axis, as `dpjax.clipped_grad` wants it, and
computes in float32 whatever the model computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

_State = tuple[jax.Array, jax.Array, jax.Array]


class _Chunk(NamedTuple):
    """Some tokens of the vocabulary: `(c, d)`, `(c,)` or None, `(c, r)` or None."""

    rows: jax.Array
    bias: jax.Array | None
    added: jax.Array | None


def causal_lm_loss(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    loss_mask: jax.Array,
    *,
    vocab_axis: Literal[0, 1],
    reduction: Literal["sum", "mean"] = "mean",
    vocab_chunk: int | None = None,
    logit_softcap: float | None = None,
    bias: jax.Array | None = None,
    addition: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """The cross-entropy of the counted tokens of one sequence, as a float32 scalar.

    `hidden[t]` predicts `targets[t]`: whoever trains on `ids` passes the hidden states of
    `ids[:-1]` and the targets `ids[1:]`. A position that is not counted contributes exactly zero
    to value and gradient, whatever it holds. The loss of a sequence without a counted token, and
    its gradient, are 0.

    With `vocab_chunk=c` no more than `(T, c)` logits are held, by an ordinary gradient as by
    `dpjax.clipped_grad` with strategy "two_backwards", whether the head is an embedding table too
    or not. "one_backward" keeps the cotangents of all logits, `(T, V)` for every example.

    Args:
        hidden: `(T, d)`, in any floating-point format.
        head: `(V, d)` with `vocab_axis=0` (an embedding table), `(d, V)` with `vocab_axis=1` (the
            kernel of a linear layer); rounded to the dtype of `hidden` before it is multiplied.
        targets: `(T,)` integers in [0, V); anything where `loss_mask` is False. A counted target
            outside makes loss and gradient NaN, so that `clipped_grad` leaves the example out.
        loss_mask: `(T,)` bool, True where the token `targets[t]` counts.
        vocab_axis: which axis of `head` is the vocabulary.
        reduction: "sum" over the counted tokens, in nats, or "mean", the sum over their number.
        vocab_chunk: as for `token_losses`.
        logit_softcap: as for `token_losses`.
        bias: as for `token_losses`.
        addition: as for `token_losses`.

    Raises:
        TypeError: an array is not of the kind that is wanted here.
        ValueError: shapes do not fit, or an option has an impossible value.

    Example:
        >>> hidden, table = jnp.zeros((3, 4)), jnp.ones((8, 4))
        >>> targets, counts = jnp.array([5, 2, 7]), jnp.array([False, True, True])
        >>> loss = causal_lm_loss(hidden, table, targets, counts, vocab_axis=0)
        >>> round(float(loss / jnp.log(8)), 4)
        1.0
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
    _check_mask(loss_mask, targets)
    _check_hidden(hidden)
    if hidden.shape[0] == loss_mask.shape[0]:
        # What positions that do not count hold, perhaps NaN, must not reach a sum.
        hidden = jnp.where(loss_mask[:, None], hidden, jnp.zeros((), hidden.dtype))
        if addition is not None:
            numbers = jnp.where(loss_mask[:, None], addition[0], jnp.zeros((), hidden.dtype))
            addition = numbers, addition[1]
    losses = token_losses(
        hidden,
        head,
        jnp.where(loss_mask, targets, 0),
        vocab_axis=vocab_axis,
        vocab_chunk=vocab_chunk,
        logit_softcap=logit_softcap,
        bias=bias,
        addition=addition,
    )
    return _reduced(losses, loss_mask, reduction)


def token_losses(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    *,
    vocab_axis: Literal[0, 1],
    vocab_chunk: int | None = None,
    logit_softcap: float | None = None,
    bias: jax.Array | None = None,
    addition: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """-log p(targets[t] | hidden[t]), `(T,)` float32 in nats: a token's negative log-probability.

    With `vocab_chunk=c` a running maximum and sum of exponentials (Milakov and Gimelshein 2018,
    arXiv:1805.02867, algorithm 3) pass over c tokens of the vocabulary at a time. Logits are
    computed again on the way back: neither way holds more of them than `(T, c)`. The result does
    not depend on c, but for rounding.

    Args:
        hidden: as for `causal_lm_loss`.
        head: as for `causal_lm_loss`.
        targets: `(T,)` integers; NaN comes out where one is not in [0, V).
        vocab_axis: as for `causal_lm_loss`.
        vocab_chunk: c ≥ 1, need not divide V; None computes all logits `(T, V)` at once.
        logit_softcap: s > 0 replaces every logit z by s·tanh(z / s) (Gemma 2, arXiv:2408.00118,
            section 2).
        bias: `(V,)` added to the logits, before they are capped.
        addition: `(T, r)` and `(V, r)`, of which the products are added to the logits too: what an
            adapter on the head does (`CausalLM.head_addition`).

    Raises:
        TypeError: `hidden`, `head` or `bias` is not floating-point, or `targets` not of integers.
        ValueError: shapes do not fit, or an option has an impossible value.

    Example:
        >>> hidden, table = jnp.zeros((3, 4)), jnp.ones((8, 4))
        >>> losses = token_losses(hidden, table, jnp.array([5, 2, 7]), vocab_axis=0, vocab_chunk=3)
        >>> (losses / jnp.log(8)).round(4).tolist()
        [1.0, 1.0, 1.0]
    """
    _check_hidden(hidden)
    size = _checked_vocabulary_size(hidden, head, vocab_axis, bias)
    _check_targets(targets, hidden.shape[0])
    if vocab_chunk is not None and vocab_chunk < 1:
        raise ValueError(f"vocab_chunk must be at least 1, got {vocab_chunk}; None takes all")
    if logit_softcap is not None and not logit_softcap > 0:
        raise ValueError(f"logit_softcap must be above 0, got {logit_softcap}; None leaves it out")

    if addition is not None and addition[1].shape[0] != size:
        raise ValueError(
            f"addition must have a row for each of {size} tokens, got {addition[1].shape[0]}"
        )

    def add_chunk(state: _State, start: jax.Array | int, chunk: _Chunk) -> _State:
        maximum, total, target_logits = state
        logits = _logits(hidden, chunk, None if addition is None else addition[0], logit_softcap)
        columns = start + jnp.arange(chunk.rows.shape[0])
        at_targets = jnp.where(columns == targets[:, None], logits, 0.0)
        larger = jnp.maximum(maximum, jax.lax.stop_gradient(jnp.max(logits, axis=-1)))
        total *= jnp.exp(maximum - larger)
        total += jnp.sum(jnp.exp(logits - larger[:, None]), axis=-1)
        return larger, total, target_logits + jnp.sum(at_targets, axis=-1)

    table = head if vocab_axis == 0 else head.T
    whole = _Chunk(table, bias, None if addition is None else addition[1])
    zeros = jnp.zeros(hidden.shape[0], jnp.float32)
    state = (jnp.full_like(zeros, jnp.finfo(jnp.float32).min), zeros, zeros)
    if vocab_chunk is None or vocab_chunk >= size:
        state = add_chunk(state, 0, whole)
    else:
        state = _over_chunks(add_chunk, state, whole, vocab_chunk)
    maximum, total, target_logits = state
    known = (targets >= 0) & (targets < size)
    # A product, so that an unknown target makes the gradient NaN too.
    return (maximum + jnp.log(total) - target_logits) * jnp.where(known, 1.0, jnp.nan)


def sequence_classification_loss(
    logits: jax.Array, label: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """The cross-entropy of one example's class, a float32 scalar in nats.

    The target distribution is (1 - α)·[k = label] + α / K (Szegedy et al. 2016, arXiv:1512.00567,
    section 7), α being the smoothing.

    Args:
        logits: `(K,)`, floating-point.
        label: integer scalar in [0, K); any other leaves the smoothing's part of the target only.
        label_smoothing: α in [0, 1).

    Raises:
        TypeError: logits are not floating-point, or the label is not an integer.
        ValueError: shapes do not fit, or the smoothing is outside its range.

    Example:
        >>> loss = sequence_classification_loss(jnp.zeros(4), jnp.int32(3), label_smoothing=0.1)
        >>> round(float(loss / jnp.log(4)), 4)
        1.0
    """
    _check_floating("logits", logits, 1, "(K,)")
    _check_integers("label", label)
    if jnp.ndim(label) != 0:
        raise ValueError(
            f"label must be a scalar, got shape {jnp.shape(label)}: the loss is that of one "
            "example; for a label for each token use token_classification_loss"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    num_classes = logits.shape[0]
    is_label = jax.nn.one_hot(label, num_classes)
    target = (1.0 - label_smoothing) * is_label + label_smoothing / num_classes
    return -jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32)))


def token_classification_loss(
    logits: jax.Array, labels: jax.Array, loss_mask: jax.Array
) -> jax.Array:
    """The mean cross-entropy of the counted tokens' classes, a float32 scalar in nats.

    0, with gradient 0, where none counts.

    Args:
        logits: `(T, K)`, floating-point.
        labels: `(T,)` integers in [0, K); anything where `loss_mask` is False. A counted label
            outside makes loss and gradient NaN.
        loss_mask: `(T,)` bool, True where the token counts.

    Raises:
        TypeError: an array is not of the kind that is wanted here.
        ValueError: shapes do not fit.

    Example:
        >>> logits = jnp.zeros((3, 4))
        >>> labels, counts = jnp.array([0, 3, 1]), jnp.array([True, True, False])
        >>> loss = token_classification_loss(logits, labels, counts)
        >>> round(float(loss / jnp.log(4)), 4)
        1.0
    """
    _check_floating("logits", logits, 2, "(T, K)")
    _check_mask(loss_mask, labels)
    _check_targets(labels, logits.shape[0], "labels", "logits")
    logits = jnp.where(loss_mask[:, None], logits.astype(jnp.float32), 0.0)
    log_probs = jax.nn.log_softmax(logits)
    return _reduced(-_picked(log_probs, jnp.where(loss_mask, labels, 0)), loss_mask, "mean")


def _over_chunks(
    add_chunk: Callable[[_State, jax.Array | int, _Chunk], _State],
    state: _State,
    whole: _Chunk,
    chunk: int,
) -> _State:
    """All whole chunks in a loop, then what is left.

    The table enters the loop in slices and not as a whole: its gradient in each iteration then is
    a contraction that fills a place of its own.
    """
    size = whole.rows.shape[0]
    # A rest of a single row would not be a contraction.
    while size % chunk == 1 and chunk > 1:
        chunk -= 1
    count = size // chunk
    looped = count * chunk

    def step(state: _State, inputs: tuple[jax.Array, _Chunk]) -> tuple[_State, None]:
        return add_chunk(state, *inputs), None

    slices = (
        chunk * jnp.arange(count),
        jax.tree.map(lambda x: x[:looped].reshape(count, chunk, *x.shape[1:]), whole),
    )
    # A loop's two passes are not merged by the compiler: no barrier is needed.
    state, _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), state, slices)
    if looped == size:
        return state
    rest = jax.tree.map(lambda x: x[looped:], whole)
    return jax.checkpoint(add_chunk, static_argnums=1)(state, looped, rest)


def _logits(
    hidden: jax.Array, chunk: _Chunk, added: jax.Array | None, softcap: float | None
) -> jax.Array:
    """`(T, c)` float32, added up in float32."""
    logits = _rows_times(hidden, chunk.rows)
    if added is not None and chunk.added is not None:
        logits += _rows_times(added, chunk.added)
    if chunk.bias is not None:
        logits += chunk.bias.astype(jnp.float32)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _rows_times(numbers: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.lax.dot_general(
        numbers,
        rows.astype(numbers.dtype),
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def _picked(log_probs: jax.Array, labels: jax.Array) -> jax.Array:
    """The entry of the last axis that each label numbers; NaN for a number outside."""
    is_label = jnp.arange(log_probs.shape[-1]) == labels[..., None]
    known = jnp.where(jnp.any(is_label, axis=-1), 1.0, jnp.nan)
    return jnp.sum(jnp.where(is_label, log_probs, 0.0), axis=-1) * known


def _reduced(losses: jax.Array, loss_mask: jax.Array, reduction: str) -> jax.Array:
    total = jnp.sum(jnp.where(loss_mask, losses, 0.0))
    if reduction == "sum":
        return total
    return total / jnp.maximum(1, jnp.sum(loss_mask)).astype(jnp.float32)


def _check_hidden(hidden: jax.Array) -> None:
    _check_floating("hidden", hidden, 2, "(T, d)")


def _checked_vocabulary_size(
    hidden: jax.Array, head: jax.Array, vocab_axis: int, bias: jax.Array | None
) -> int:
    if vocab_axis not in (0, 1):
        raise ValueError(
            f"vocab_axis must be 0, for a head (V, d), or 1, for a head (d, V), got {vocab_axis!r}"
        )
    _check_floating("head", head, 2, "(V, d) or (d, V)")
    if head.shape[1 - vocab_axis] != hidden.shape[1]:
        raise ValueError(
            f"with vocab_axis={vocab_axis}, axis {1 - vocab_axis} of head must be as long as a "
            f"hidden state, {hidden.shape[1]}, got head {head.shape}; for the other orientation "
            f"pass vocab_axis={1 - vocab_axis}"
        )
    size = head.shape[vocab_axis]
    if bias is not None:
        _check_floating("bias", bias, 1, "(V,)")
        if bias.shape != (size,):
            raise ValueError(f"bias must have shape ({size},), as head, got {bias.shape}")
    return size


def _check_targets(
    targets: jax.Array, length: int, name: str = "targets", other: str = "hidden"
) -> None:
    _check_integers(name, targets)
    if jnp.shape(targets) != (length,):
        raise ValueError(
            f"{name} must have shape ({length},), as {other} has {length} positions, got "
            f"{jnp.shape(targets)}; for a batch use jax.vmap"
        )


def _check_mask(loss_mask: jax.Array, targets: jax.Array) -> None:
    if jnp.result_type(loss_mask) != jnp.bool_:
        raise TypeError(
            f"loss_mask must be boolean (True counts), got dtype {jnp.result_type(loss_mask)}"
        )
    if jnp.shape(loss_mask) != jnp.shape(targets):
        raise ValueError(
            f"loss_mask must have the shape of the targets, {jnp.shape(targets)}, got "
            f"{jnp.shape(loss_mask)}"
        )


def _check_floating(name: str, x: jax.Array, ndim: int, shape: str) -> None:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise TypeError(f"{name} must be floating-point, got dtype {jnp.result_type(x)}")
    if jnp.ndim(x) != ndim:
        raise ValueError(
            f"{name} must have shape {shape}, got {jnp.shape(x)}: the loss is that of one example; "
            "for a batch use jax.vmap"
        )


def _check_integers(name: str, x: jax.Array) -> None:
    if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {jnp.result_type(x)}")
