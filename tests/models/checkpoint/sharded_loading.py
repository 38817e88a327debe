"""Run as a script on four CPU devices, given a checkpoint: loading over them, as JSON on stdout.

For unrolled and stacked layers: the largest difference of logits and of clipped gradients to one
device, and the largest share of a matrix that a single device holds.
"""

import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dpjax.models import Loading, Trainable, load_causal_lm, split_trainable
from dpjax.models.text.losses import causal_lm_loss
from dpjax.privatize import clipped_grad


def split_matrices(path, shape):
    """The last axis of every matrix over the devices, all else as a whole on each."""
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
    is_matrix = path.endswith("kernel")
    stacked = path.startswith("transformer.layers.") and not path.split(".")[2].isdigit()
    spec = P(*(None,) * (1 + stacked), "fsdp") if is_matrix else P()
    return NamedSharding(mesh, spec)


def results(model):
    """Logits, and the sum of clipped gradients, of three texts."""
    graphdef, trained, frozen = split_trainable(model, Trainable.full())
    ids = jax.random.randint(jax.random.key(0), (3, 10), 3, 60)

    def loss(trained, ids):
        model = nnx.merge(graphdef, trained, frozen)
        hidden = model.hidden_states(ids, jnp.ones(ids.shape, bool))[:-1]
        head, vocab_axis = model.head_weights()
        counted = jnp.ones(len(ids) - 1, bool)
        return causal_lm_loss(hidden, head, ids[1:], counted, vocab_axis=vocab_axis)

    @jax.jit
    def run(trained):
        logits = nnx.merge(graphdef, trained, frozen)(ids, jnp.ones(ids.shape, bool))
        clipped = clipped_grad(loss, clip_norm=0.1, strategy="two_backwards")(trained, ids)
        return logits, clipped.grads

    return run(trained)


def largest_difference(one, other):
    gaps = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), one, other)
    return max(jax.tree.leaves(gaps))


def compare(folder, scan_layers):
    whole = load_causal_lm(folder, loading=Loading(scan_layers=scan_layers))
    spread = load_causal_lm(
        folder, loading=Loading(scan_layers=scan_layers, placement=split_matrices)
    )
    kernel = spread.lm_head.kernel[...]
    layers = spread.transformer.layers if scan_layers else spread.transformer.layers[0]
    kernels = [kernel, layers.mlp.up_proj.kernel[...], layers.self_attn.o_proj.kernel[...]]
    return {
        "difference": largest_difference(results(whole), results(spread)),
        "share": max(
            shard.data.size / one.size for one in kernels for shard in one.addressable_shards
        ),
    }


if __name__ == "__main__":
    cases = {"unrolled": False, "stacked": True}
    print(json.dumps({name: compare(sys.argv[1], scan) for name, scan in cases.items()}))
