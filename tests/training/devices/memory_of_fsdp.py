"""Run as a script on eight CPU devices: the memory of a step with fsdp=8, as JSON on stdout.

A small causal language model is tuned as a whole with Adam; nothing is run, only compiled.
"""

import dataclasses
import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
# The CPU's compiler would put all exchanges of gradients into one, and start all gathering at
# once; those of accelerators limit both.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false "
    "--xla_disable_hlo_passes=cpu-all-reduce-combiner,all-reduce-combiner"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD
from flax import nnx

from dpjax.finetuning.setup.model.load import model_layout
from dpjax.models import CausalLM, Trainable, causal_lm_loss, parse_config, split_trainable
from dpjax.privatize import FlatClipping, RunKey
from dpjax.privatize.devices.spread_sums import shardings_of
from dpjax.training import PrivateTraining, choose_mesh

DEVICES, LENGTH = 8, 16
MECHANISM = DPSGD(num_units=80, expected_batch_size=16, noise_multiplier=1.0, num_steps=2)
CONFIG = {
    "model_type": "gpt2",
    "n_embd": 256,
    "n_layer": 10,
    "n_head": 4,
    "n_positions": LENGTH,
    "vocab_size": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def make_loss(graphdef):
    def loss(params, ids, frozen):
        model = nnx.merge(graphdef, params, frozen)
        counted = jnp.ones(LENGTH - 1, bool)
        hidden = model.hidden_states(ids, jnp.ones(LENGTH, bool))[:-1]
        head, vocab_axis = model.head_weights()
        return causal_lm_loss(
            hidden, head, vocab_axis=vocab_axis, targets=ids[1:], loss_mask=counted
        )

    return loss


def memory_of(split, layout, num_rows):
    """Bytes on one device: of parameters, sums and optimizer state, and beside them."""
    optimizer, params = optax.adam(1e-3), split.trainable
    rows = np.zeros((num_rows, LENGTH), np.int32), np.ones(num_rows, bool)
    init = optimizer.init
    if layout is not None:
        params, rows = layout.place(params), layout.place_rows(rows)
        state = layout.init_state(init, params)
    else:
        state = init(params)
    steps = PrivateTraining(
        make_loss(split.graphdef),
        optimizer,
        MECHANISM,
        FlatClipping(1.0),
        RunKey.from_seed(0),
        layout=layout,
    )
    (total, _), private = steps.begin(params, 0), steps._private
    where = shardings_of(params)
    add = private._compiled_add.lower(total, params, *rows, split.frozen, shardings=where)
    update = private._compiled_update.lower(
        steps._apply, (params, state), total.grads, *private.noise.arguments(0, total.grads)
    )
    held = sum(
        max(leaf.addressable_shards, key=lambda shard: shard.data.nbytes).data.nbytes
        for leaf in jax.tree.leaves((params, total.grads, state))
    )
    beside = {}
    for name, lowered in {"add": add, "update": update}.items():
        memory = lowered.compile().memory_analysis()
        output = memory.output_size_in_bytes - memory.alias_size_in_bytes
        beside[name] = memory.temp_size_in_bytes + output
    return {"held": held, "beside": beside}


def make_split(**changes):
    config = dataclasses.replace(parse_config(CONFIG), **changes)
    return split_trainable(CausalLM(config, rngs=nnx.Rngs(0)), Trainable.full())


def main():
    split, looped = make_split(), make_split(scan_layers=True)
    again = make_split(scan_layers=True, rematerialise=True)
    spread = model_layout(choose_mesh("fsdp=8", DEVICES, size_name="size").mesh)
    whole = model_layout(choose_mesh("data=8", DEVICES, size_name="size").mesh)
    report = {
        "fsdp": memory_of(split, spread, DEVICES),
        "fsdp, layers in a loop": memory_of(looped, spread, DEVICES),
        "fsdp, layers in a loop, rematerialised": memory_of(again, spread, DEVICES),
        "data": memory_of(split, whole, DEVICES),
        "one record": memory_of(split, None, 1),
        "largest": max(leaf.nbytes for leaf in jax.tree.leaves(split.trainable)),
        "parameters": sum(leaf.nbytes for leaf in jax.tree.leaves(split.trainable)),
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
