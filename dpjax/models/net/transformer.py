"""The body of every model: embeddings, a stack of layers, a last norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.basics.typing import PyTree
from dpjax.models.config import TransformerConfig
from dpjax.models.net.attention import positions_of, visible
from dpjax.models.net.block import Block, Cache, Surroundings
from dpjax.models.net.layers import Embedding, Norm
from dpjax.models.net.rope import query_scale, rotation


class Transformer(nnx.Module):
    """A decoder or encoder (Vaswani et al. 2017, Devlin et al. 2019), as `config` says.

    Deterministic: there is no dropout, in training neither, and the module holds no random state.
    With `scan_layers` the parameters of all layers are stacked: one `Block` with a leading axis.

    With `first_layer` above 0 only the layers from that one on run: in place of ids the transformer
    then reads what `hidden_below` returned, `(..., T, hidden_size)`.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.first_layer = 0
        size, stddev = config.hidden_size, config.initializer_range
        self.embed_tokens = Embedding(config.vocab_size, size, stddev=stddev, rngs=rngs)
        if config.rope is None:
            rows = config.max_positions + config.position_offset
            self.embed_positions = Embedding(rows, size, stddev=stddev, rngs=rngs)
        if config.type_vocab_size:
            self.embed_types = Embedding(config.type_vocab_size, size, stddev=stddev, rngs=rngs)
        if config.embedding_norm:
            self.embedding_norm = Norm(size, config)
        blocks = [Block(config, rngs=rngs) for _ in range(config.num_layers)]
        if config.averaging_layer and config.quantise != "none":
            # Chosen by hand: rounded, it would average with other weights.
            blocks[-1] = Block(dataclasses.replace(config, quantise="none"), rngs=rngs)
        self.layers = _stacked(blocks) if config.scan_layers else nnx.List(blocks)
        if config.final_norm:
            self.norm = Norm(size, config)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Hidden states of the last layer.

        Args:
            input_ids: `(..., T)` int32, any number of leading axes, also none.
            attention_mask: `(..., T)` bool, true for tokens, false for padding on either side.

        Returns:
            `(..., T, hidden_size)` in `config.dtype`; meaningless at padding positions.

        Raises:
            ValueError: if T exceeds the learned positions of the model.
        """
        positions = positions_of(attention_mask)
        hidden = self._start(input_ids, positions)
        around = self._surroundings(attention_mask, positions, 0)
        hidden, _ = self._run_layers(hidden, around, None)
        return self.norm(hidden) if self.config.final_norm else hidden

    def hidden_below(
        self, input_ids: jax.Array, attention_mask: jax.Array, layer: int
    ) -> jax.Array:
        """Hidden states that enter a layer, counted from 0; arguments as in `__call__`.

        Layers must be unrolled.
        """
        positions = positions_of(attention_mask)
        hidden = self._embed(input_ids, positions)
        around = self._surroundings(attention_mask, positions, 0)
        for index in range(layer):
            hidden, _ = self._apply(self.layers[index], hidden, self._static(around, index), None)
        return hidden

    def hidden_after(
        self, input_ids: jax.Array, attention_mask: jax.Array, layers: Sequence[int]
    ) -> list[jax.Array]:
        """Hidden states `(..., T, hidden_size)` as if the model ended with each of some layers.

        Args:
            input_ids: as in `__call__`.
            attention_mask: as in `__call__`.
            layers: 1 is the lowest, 0 the embeddings; none below `first_layer`. They rise.
        """
        positions = positions_of(attention_mask)
        hidden = self._start(input_ids, positions)
        around = self._surroundings(attention_mask, positions, 0)
        found, below = [], self.first_layer
        for layer in layers:
            hidden, _ = self._run_layers(hidden, around, None, below, layer)
            found.append(self.norm(hidden) if self.config.final_norm else hidden)
            below = layer
        return found

    def first_token(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Hidden state `(..., hidden_size)` of the first token; arguments as in `__call__`.

        Of the last layer nothing else is computed, unless layers are stacked.
        """
        config = self.config
        if config.scan_layers or config.rope or config.causal:
            return self(input_ids, attention_mask)[..., 0, :]
        positions = positions_of(attention_mask)
        hidden = self._start(input_ids, positions)
        around = self._surroundings(attention_mask, positions, 0)
        last = config.num_layers - 1
        for index in range(self.first_layer, last):
            hidden, _ = self._apply(self.layers[index], hidden, self._static(around, index), None)
        hidden, _ = self.layers[last](hidden, self._static(around, last), first_only=True)
        hidden = self.norm(hidden) if config.final_norm else hidden
        return hidden[..., 0, :]

    def step(
        self,
        input_ids: jax.Array,
        key_mask: jax.Array,
        positions: jax.Array,
        first_place: jax.Array | int,
        caches: Any,
    ) -> tuple[jax.Array, Any]:
        """Hidden states of T more tokens, given the keys and values of those before.

        Args:
            input_ids: `(..., T)` int32.
            key_mask: `(..., S)` bool, true at places of the cache that are tokens, these included.
            positions: `(..., T)` int32, of these tokens.
            first_place: where in the cache they go.
            caches: from `empty_caches`, or from the call before.

        Returns:
            `(..., T, hidden_size)` and the caches with these tokens written.

        Raises:
            ValueError: if the cache has places at which a text's length would decide how it is
                rotated: its first keys would have to be computed again.
        """
        longest, places = self.config.longest_alike, key_mask.shape[-1]
        if places > longest:
            raise ValueError(
                f"a cache of {places} tokens is longer than the {longest:g} up to which this "
                "model's rotary positions (dynamic or longrope) stay as they are; shorten the texts"
            )
        hidden = self._embed(input_ids, positions)
        around = self._surroundings(key_mask, positions, first_place)
        hidden, caches = self._run_layers(hidden, around, caches)
        return self.norm(hidden) if self.config.final_norm else hidden, caches

    def empty_caches(self, lead: Sequence[int], places: int) -> Any:
        """Caches for `places` tokens of sequences with leading axes `lead`, in `config.dtype`."""
        config = self.config
        shape = (*lead, places, config.num_kv_heads, config.head_size)
        if config.scan_layers:
            shape = (config.num_layers, *shape)
        empty = Cache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
        return empty if config.scan_layers else [empty] * config.num_layers

    def _start(self, inputs: jax.Array, positions: jax.Array) -> jax.Array:
        """What enters the first layer that runs."""
        if not self.first_layer:
            return self._embed(inputs, positions)
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise TypeError(
                f"a model cut below layer {self.first_layer} reads hidden states, got "
                f"{inputs.dtype}. Pass what lower_hidden_states returned"
            )
        return inputs

    def _embed(self, input_ids: jax.Array, positions: jax.Array) -> jax.Array:
        config = self.config
        dtype = jnp.dtype(config.dtype)
        hidden = self.embed_tokens(input_ids, dtype)
        if config.embedding_scale is not None:
            hidden = hidden * jnp.asarray(config.embedding_scale, dtype)
        if config.type_vocab_size:
            hidden = hidden + self.embed_types(jnp.zeros_like(input_ids), dtype)
        if config.rope is None:
            length = input_ids.shape[-1]
            if length > config.max_positions:
                raise ValueError(
                    f"a sequence of {length} tokens is longer than the {config.max_positions} "
                    "positions of the model; truncate it (max_length)"
                )
            hidden = hidden + self.embed_positions(positions + config.position_offset, dtype)
        return self.embedding_norm(hidden) if config.embedding_norm else hidden

    def _surroundings(
        self, key_mask: jax.Array, positions: jax.Array, first_place: jax.Array | int
    ) -> dict[str, Surroundings]:
        """Of each type of layer that there is."""
        config = self.config
        num_queries, num_keys = positions.shape[-1], key_mask.shape[-1]
        around = {}
        for layer_type in dict.fromkeys(config.types_of_layers):
            window = config.sliding_window if layer_type == "sliding" else 0
            window = 0 if window >= num_keys else window
            mask = visible(key_mask, num_queries, first_place, config.causal, window)
            rope = config.rope_of(layer_type)
            turn = None if rope is None else rotation(rope, positions)
            scale = None if rope is None else query_scale(rope, positions)
            around[layer_type] = Surroundings(mask, turn, scale, first_place)
        return around

    def _static(self, around: dict[str, Surroundings], index: int) -> Surroundings:
        """The surroundings of a layer whose number is known."""
        surroundings = around[self.config.types_of_layers[index]]
        return (
            surroundings
            if self.config.rotated_layers[index]
            else surroundings._replace(rotation=None)
        )

    def _traced(
        self, around: dict[str, Surroundings], sliding: jax.Array, rotated: jax.Array
    ) -> Surroundings:
        """The surroundings of a layer in a loop, whose type is a value of the loop."""
        surroundings = next(iter(around.values()))
        if len(around) > 1:
            kinds = around["sliding"], around["full"]
            surroundings = jax.tree.map(lambda a, b: jnp.where(sliding, a, b), *kinds)
        if surroundings.rotation is None or all(self.config.rotated_layers):
            return surroundings
        cos, sin = surroundings.rotation
        return surroundings._replace(
            rotation=(jnp.where(rotated, cos, 1.0), jnp.where(rotated, sin, 0.0))
        )

    def _run_layers(
        self,
        hidden: jax.Array,
        around: dict[str, Surroundings],
        caches: Any,
        start: int | None = None,
        stop: int | None = None,
    ) -> tuple[jax.Array, Any]:
        """Runs the layers from `start`, by default all that run, up to the one before `stop`."""
        config = self.config
        start = self.first_layer if start is None else start
        stop = config.num_layers if stop is None else stop
        if start == stop:
            return hidden, caches
        if not config.scan_layers:
            new = []
            for index in range(start, stop):
                layer, cache = self.layers[index], None if caches is None else caches[index]
                hidden, cache = self._apply(layer, hidden, self._static(around, index), cache)
                new.append(cache)
            return hidden, None if caches is None else new
        graphdef, state = nnx.split(self.layers)
        sliding = jnp.array([kind == "sliding" for kind in config.types_of_layers])
        rotated = jnp.array(config.rotated_layers)

        def body(hidden: jax.Array, of_layer: tuple) -> tuple[jax.Array, Cache | None]:
            parameters, sliding, rotated, cache = of_layer
            layer = nnx.merge(graphdef, parameters)
            return layer(hidden, self._traced(around, sliding, rotated), cache)

        stacked = (nnx.to_pure_dict(state), sliding, rotated, caches)
        if (start, stop) != (0, config.num_layers):
            stacked = jax.tree.map(lambda leaf: leaf[start:stop], stacked)
        return jax.lax.scan(jax.checkpoint(body) if config.rematerialise else body, hidden, stacked)

    def _apply(
        self, layer: Block, hidden: jax.Array, around: Surroundings, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        if not self.config.rematerialise:
            return layer(hidden, around, cache)
        graphdef, state = nnx.split(layer)

        def run(parameters: PyTree, *args: Any) -> tuple[jax.Array, Cache | None]:
            return nnx.merge(graphdef, parameters)(*args)

        return jax.checkpoint(run)(nnx.to_pure_dict(state), hidden, around, cache)


def _stacked(blocks: Sequence[Block]) -> Block:
    graphdef, _ = nnx.split(blocks[0])
    states = [nnx.to_pure_dict(nnx.split(block)[1]) for block in blocks]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
