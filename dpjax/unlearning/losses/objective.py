"""The loss of a method as a function of parameters, of a record to forget and a retained one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.basics.typing import PyTree
from dpjax.models import CausalLM, sequence_log_probs
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.losses import formulas

# Bounds the logits held at once, but for undial, which needs all of them.
_VOCAB_CHUNK = 8192


class TokenRecord(NamedTuple):
    """An encoded record: `(T,)` int32, and twice `(T,)` bool; or a batch, with a leading axis."""

    input_ids: jax.Array
    attention_mask: jax.Array
    loss_mask: jax.Array


# (trained parameters, those before unlearning, frozen ones, forget record, retained record).
Loss = Callable[[PyTree, PyTree, PyTree, TokenRecord, TokenRecord], jax.Array]


def make_loss(graphdef: Any, config: UnlearnConfig, *, key: jax.Array) -> Loss:
    """Makes the loss of `config.method` for one record to forget and one that is retained.

    The reference of every method is the model before unlearning: the base with the tuned adapter
    as it was. It gets no gradient.

    Args:
        graphdef: structure of a model with adapters, whose layers are unrolled if the method is
            rmu.
        config: the method and its options.
        key: a JAX key for the direction of rmu; no other method draws anything.
    """
    options: dict[str, Any] = config.method_options()
    make = {
        "grad_ascent": _make_grad_ascent,
        "grad_diff": _make_grad_diff,
        "npo": _make_npo,
        "simnpo": _make_simnpo,
        "undial": _make_undial,
    }.get(config.method)
    if make is None:
        return _make_rmu(graphdef, key, **options)
    return make(graphdef, **options)


def mean_loss(model: CausalLM, record: TokenRecord) -> jax.Array:
    """Returns ℓ, the mean negative log-probability of the counted tokens, in nats."""
    num_tokens = jnp.maximum(jnp.sum(record.loss_mask), 1)
    return -_log_prob(model, record) / num_tokens


def make_tuning_loss(graphdef: Any) -> Loss:
    """Makes ℓ of the forget record: descending it learns the record again."""

    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        del start, retain
        return mean_loss(nnx.merge(graphdef, trainable, frozen), forget)

    return loss


def _make_grad_ascent(graphdef: Any) -> Loss:
    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        del start, retain
        return formulas.grad_ascent(mean_loss(nnx.merge(graphdef, trainable, frozen), forget))

    return loss


def _make_grad_diff(graphdef: Any, **options: Any) -> Loss:
    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        del start
        model = nnx.merge(graphdef, trainable, frozen)
        return formulas.grad_diff(mean_loss(model, forget), mean_loss(model, retain), **options)

    return loss


def _make_npo(graphdef: Any, **options: Any) -> Loss:
    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        model = nnx.merge(graphdef, trainable, frozen)
        reference = _reference(graphdef, start, frozen)
        return formulas.npo(
            _log_prob(model, forget),
            _log_prob(reference, forget),
            mean_loss(model, retain),
            **options,
        )

    return loss


def _make_simnpo(graphdef: Any, **options: Any) -> Loss:
    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        del start
        model = nnx.merge(graphdef, trainable, frozen)
        return formulas.simnpo(mean_loss(model, forget), mean_loss(model, retain), **options)

    return loss


def _make_undial(graphdef: Any, **options: Any) -> Loss:
    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        model = nnx.merge(graphdef, trainable, frozen)
        logits, of_reference = (
            # Nothing follows the last token.
            each(forget.input_ids, forget.attention_mask)[:-1]
            for each in (model, _reference(graphdef, start, frozen))
        )
        return formulas.undial(
            logits,
            of_reference,
            forget.input_ids[1:],
            forget.loss_mask[1:],
            mean_loss(model, retain),
            **options,
        )

    return loss


def _make_rmu(
    graphdef: Any, key: jax.Array, *, layer: int | None, steering: float, retain_weight: float
) -> Loss:
    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        model = nnx.merge(graphdef, trainable, frozen)
        after = max(1, model.config.num_layers // 2) if layer is None else layer
        # Entries between 0 and 1, as in the paper.
        drawn = jax.random.uniform(key, (model.config.hidden_size,))

        def hidden(each: CausalLM, record: TokenRecord) -> jax.Array:
            texts = record.input_ids, record.attention_mask
            # Without the norm of the last layer: that would fix their length.
            states: jax.Array = each.transformer.hidden_below(*texts, after)
            return states

        return formulas.rmu(
            hidden(model, forget),
            forget.attention_mask,
            hidden(model, retain),
            hidden(_reference(graphdef, start, frozen), retain),
            retain.attention_mask,
            drawn / jnp.linalg.norm(drawn),
            steering=steering,
            retain_weight=retain_weight,
        )

    return loss


def _reference(graphdef: Any, start: PyTree, frozen: PyTree) -> CausalLM:
    model: CausalLM = nnx.merge(graphdef, jax.lax.stop_gradient(start), frozen)
    return model


def _log_prob(model: CausalLM, record: TokenRecord) -> jax.Array:
    chunk = min(_VOCAB_CHUNK, model.config.vocab_size)
    return sequence_log_probs(model, *record, vocab_chunk=chunk)
