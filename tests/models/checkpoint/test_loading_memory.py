"""What loading holds at a time, and where it puts parameters."""

import weakref

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import dpjax.models.checkpoint.tensors as tensors
from dpjax.models import Loading, load_causal_lm, parse_config
from dpjax.models.checkpoint.files import read_config_json
from dpjax.models.families import family_of
from tests.support.tiny_checkpoints import write_config


@pytest.fixture
def llama(tmp_path):
    folder = write_config(tmp_path / "llama", "llama", attention_bias=False, mlp_bias=False)
    config = parse_config(read_config_json(folder))
    d, inner, keys = config.hidden_size, config.intermediate_size, 2 * config.head_size
    outputs = {"k_proj": keys, "v_proj": keys, "gate_proj": inner, "up_proj": inner}
    tensors = {}
    for weight in family_of("llama").weight_names(config, "causal_lm"):
        name = weight.hf_name.split(".")[-2]
        shape = (outputs.get(name, d), inner if name == "down_proj" else d)
        if "norm" in name:
            shape = (d,)
        elif name in ("embed_tokens", "lm_head"):
            shape = (config.vocab_size, d)
        tensors[weight.hf_name] = np.ones(shape, ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("scan_layers", [False, True])
def test_one_tensor_is_held_at_a_time_and_stays_bfloat16(llama, monkeypatch, scan_layers):
    read, stored, alive_at = tensors._read_tensor, [], []

    def recording(*args):
        value = read(*args)
        stored.append(weakref.ref(value.base))
        alive_at.append({index for index, array in enumerate(stored) if array() is not None})
        return value

    monkeypatch.setattr(tensors, "_read_tensor", recording)
    loading = Loading(param_dtype="bfloat16", scan_layers=scan_layers)
    model = load_causal_lm(llama, loading=loading)
    # Some become parameters as they are, without a copy.
    parameters = {index for index, array in enumerate(stored) if array() is not None}
    # JAX lets go of what it has copied in its next call, so that the one before may be alive.
    assert max(len(alive - parameters) for alive in alive_at) <= 2
    assert len(alive_at) == 21
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_placement_is_asked_for_every_parameter_and_followed(llama, scan_layers):
    asked = []
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def placement(path, shape):
        asked.append(path)
        return sharding

    model = load_causal_lm(llama, loading=Loading(scan_layers=scan_layers, placement=placement))
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert sorted(asked) == sorted(".".join(map(str, path)) for path, _ in state)
    assert {leaf[...].sharding for _, leaf in state} == {sharding}
