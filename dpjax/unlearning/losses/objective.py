"""The loss of a method as a function of parameters, of a record to forget and a retained one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from dpjax.basics.typing import PyTree
from dpjax.models import CausalLM, SplitModel, sequence_log_probs
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.losses import formulas

# Bounds the logits held at once, but for undial, which needs all of them.
_VOCAB_CHUNK = 8192


class TokenRecord(NamedTuple):
    """An encoded record: `(T,)` int32, and twice `(T,)` bool; or a batch, with a leading axis.

    `reference_log_prob`, a float32 scalar, is log π_ref of a record to forget, where the loss reads
    it: see `reference_log_probs`.
    """

    input_ids: jax.Array
    attention_mask: jax.Array
    loss_mask: jax.Array
    reference_log_prob: jax.Array | None = None


# (trained parameters, those before unlearning, frozen ones, forget record, retained record).
Loss = Callable[[PyTree, PyTree, PyTree, TokenRecord, TokenRecord], jax.Array]
# (model, model before unlearning, forget record, retained record).
_Objective = Callable[[CausalLM, CausalLM, TokenRecord, TokenRecord], jax.Array]


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
    objectives: dict[str, _Objective] = {
        "grad_ascent": _grad_ascent,
        "grad_diff": partial(_grad_diff, **options),
        "npo": partial(_npo, **options),
        "simnpo": partial(_simnpo, **options),
        "undial": partial(_undial, **options),
        "rmu": partial(_rmu, key, **options),
    }
    return _of_parameters(graphdef, objectives[config.method])


def reads_log_prob_of_reference(method: str) -> bool:
    """Whether the loss of a method reads `TokenRecord.reference_log_prob`."""
    return method == "npo"


def reference_log_probs(
    model: SplitModel, records: TokenRecord, *, batch_size: int
) -> NDArray[np.float32]:
    """Returns log π_ref of each record, `(F,)`: it is the same in all steps.

    Args:
        model: before unlearning.
        records: a batch of all F records.
        batch_size: records at a time.
    """

    @jax.jit
    def compute(trainable: PyTree, frozen: PyTree, records: TokenRecord) -> jax.Array:
        merged = nnx.merge(model.graphdef, trainable, frozen)
        found: jax.Array = jax.lax.map(
            lambda record: _log_prob(merged, record), records, batch_size=batch_size
        )
        return found

    return np.asarray(compute(model.trainable, model.frozen, records))


def mean_loss(model: CausalLM, record: TokenRecord) -> jax.Array:
    """Returns ℓ, the mean negative log-probability of the counted tokens, in nats."""
    num_tokens = jnp.maximum(jnp.sum(record.loss_mask), 1)
    return -_log_prob(model, record) / num_tokens


def make_tuning_loss(graphdef: Any) -> Loss:
    """Makes ℓ of the forget record: descending it learns the record again."""
    return _of_parameters(graphdef, _tuning)


def _of_parameters(graphdef: Any, objective: _Objective) -> Loss:
    def loss(
        trainable: PyTree, start: PyTree, frozen: PyTree, forget: TokenRecord, retain: TokenRecord
    ) -> jax.Array:
        model = nnx.merge(graphdef, trainable, frozen)
        # What an objective does not ask of it is not computed.
        reference = nnx.merge(graphdef, jax.lax.stop_gradient(start), frozen)
        return objective(model, reference, forget, retain)

    return loss


def _tuning(
    model: CausalLM, reference: CausalLM, forget: TokenRecord, retain: TokenRecord
) -> jax.Array:
    del reference, retain
    return mean_loss(model, forget)


def _grad_ascent(
    model: CausalLM, reference: CausalLM, forget: TokenRecord, retain: TokenRecord
) -> jax.Array:
    del reference, retain
    return formulas.grad_ascent(mean_loss(model, forget))


def _grad_diff(
    model: CausalLM, reference: CausalLM, forget: TokenRecord, retain: TokenRecord, **options: Any
) -> jax.Array:
    del reference
    return formulas.grad_diff(mean_loss(model, forget), mean_loss(model, retain), **options)


def _npo(
    model: CausalLM, reference: CausalLM, forget: TokenRecord, retain: TokenRecord, **options: Any
) -> jax.Array:
    del reference
    known = forget.reference_log_prob
    if known is None:
        raise ValueError("npo reads log π_ref of the forget record: call reference_log_probs first")
    return formulas.npo(_log_prob(model, forget), known, mean_loss(model, retain), **options)


def _simnpo(
    model: CausalLM, reference: CausalLM, forget: TokenRecord, retain: TokenRecord, **options: Any
) -> jax.Array:
    del reference
    return formulas.simnpo(mean_loss(model, forget), mean_loss(model, retain), **options)


def _undial(
    model: CausalLM, reference: CausalLM, forget: TokenRecord, retain: TokenRecord, **options: Any
) -> jax.Array:
    logits, of_reference = (
        # Nothing follows the last token.
        each(forget.input_ids, forget.attention_mask)[:-1]
        for each in (model, reference)
    )
    return formulas.undial(
        logits,
        of_reference,
        forget.input_ids[1:],
        forget.loss_mask[1:],
        mean_loss(model, retain),
        **options,
    )


def _rmu(
    key: jax.Array,
    model: CausalLM,
    reference: CausalLM,
    forget: TokenRecord,
    retain: TokenRecord,
    *,
    layer: int | None,
    steering: float,
    retain_weight: float,
) -> jax.Array:
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
        hidden(reference, retain),
        retain.attention_mask,
        drawn / jnp.linalg.norm(drawn),
        steering=steering,
        retain_weight=retain_weight,
    )


def _log_prob(model: CausalLM, record: TokenRecord) -> jax.Array:
    chunk = min(_VOCAB_CHUNK, model.config.vocab_size)
    return sequence_log_probs(
        model, record.input_ids, record.attention_mask, record.loss_mask, vocab_chunk=chunk
    )
