"""Every damaged file of a checkpoint is an error of one sentence, before anything is allocated."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpjax.models import load_causal_lm, load_classifier, parse_config, save_model
from dpjax.models.checkpoint.tensors import open_safetensors, open_tensors
from tests.support.tiny_checkpoints import raw_config

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DEEP = '{"a": ' * 5000 + "1" + "}" * 5000
# No JSON, no object, nested deeply, not UTF-8, half a surrogate pair, a number of 5,000 digits.
NO_JSON_OBJECT = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    DEEP.encode(),
    ('{"a": ' * 100 + "1" + "}" * 100).encode(),
    b"\xff\xfe{\x00}\x00",
    b'{"a": "\\ud83d"}',
    b'{"a": ' + b"1" * 5000 + b"}",
]


def load(folder):
    return load_classifier(folder, label_names=("a", "b"), key=jax.random.key(0), pooling="auto")


@pytest.mark.parametrize("value", [["llama"], {"llama": 1}, 3, True, None])
def test_a_family_is_a_name(folder, value):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"model_type": value}))
    with pytest.raises(ValueError, match=r"config\.json: model_type must be the name of a family"):
        load(folder)


@pytest.mark.parametrize("contents", NO_JSON_OBJECT)
@pytest.mark.parametrize("name", ["config.json", INDEX, "1_Pooling/config.json"])
def test_a_json_file_that_is_none_is_named(folder, name, contents):
    (folder / "1_Pooling").mkdir()
    if name == INDEX:
        (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    (folder / name).write_bytes(contents)
    with pytest.raises(ValueError, match=name) as caught:
        load(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("contents", NO_JSON_OBJECT)
def test_generation_config_is_read_before_training(tmp_path, contents):
    (tmp_path / "config.json").write_text(json.dumps(raw_config("llama")))
    (tmp_path / "generation_config.json").write_bytes(contents)
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        load_causal_lm(tmp_path)


@pytest.mark.parametrize("ids", ["2", 2.0, True, [1, "2"], [[1]], {"a": 1}])
def test_end_tokens_that_are_none(tmp_path, ids):
    (tmp_path / "config.json").write_text(json.dumps(raw_config("llama")))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(ValueError, match="eos_token_id must be a token id or a list of them"):
        load_causal_lm(tmp_path)


def test_pooling_of_another_type(folder):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": "yes"}')
    with pytest.raises(ValueError, match="pooling_mode_mean_tokens must be true or false"):
        load(folder)


WRONG_VALUES = [None, True, "12", 1.5, 0, -1, [], {}, 10**30, float("nan"), float("inf")]
SIZES = [
    ("llama", "vocab_size"),
    ("llama", "hidden_size"),
    ("llama", "num_hidden_layers"),
    ("llama", "num_attention_heads"),
    ("llama", "intermediate_size"),
    ("llama", "max_position_embeddings"),
    ("gpt2", "n_layer"),
    ("distilbert", "dim"),
    ("bert", "type_vocab_size"),
]


@pytest.mark.parametrize("value", WRONG_VALUES, ids=repr)
@pytest.mark.parametrize(("family", "name"), SIZES)
def test_a_size_that_is_none(family, name, value):
    with pytest.raises(ValueError, match=name):
        parse_config(raw_config(family, **{name: value}))


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10_000},
        {"num_hidden_layers": 10**9},
        {"num_labels": 10**30},
        {"num_labels": 10**9},
        {"vocab_size": 10**30},
        {"vocab_size": 10**9},
        {"hidden_size": 2**30},
        {"head_dim": 10**30},
        {"intermediate_size": 10**9},
    ],
)
def test_absurd_sizes_are_refused_at_once(change):
    # An array or a list of that size would not fit into memory, or take minutes.
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}|must be positive and at most"):
        parse_config(raw_config("llama", **change))


@pytest.mark.parametrize("change", [{"vocab_size": 10**8}, {"intermediate_size": 10**8}])
def test_a_model_of_other_sizes_is_refused_before_it_is_allocated(write_checkpoint, change):
    # An embedding of this size would take 9.6 GB.
    tensors = load_file(write_checkpoint("right", num_labels=2) / WEIGHTS)
    config = json.loads(json.dumps(raw_config("bert", hidden_size=24, num_attention_heads=3)))
    folder = write_checkpoint("wrong", config=config | change, tensors=tensors)
    with pytest.raises(ValueError, match=r"has shape .* but config.json implies"):
        load(folder)


def test_labels_in_config_of_other_types(write_checkpoint, bert_config):
    for names in ([1, 2], {"x": "a"}, "ab"):
        folder = write_checkpoint(
            str(names), config=bert_config | {"id2label": names}, num_labels=2
        )
        with pytest.raises(ValueError, match="id2label must map the rows of the head to names"):
            load(folder)


def header_of(path):
    contents = path.read_bytes()
    length = int.from_bytes(contents[:8], "little")
    return json.loads(contents[8 : 8 + length]), contents[8 + length :]


def write_with_header(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def moved(entry, start, stop):
    return entry | {
        "data_offsets": [entry["data_offsets"][0] + start, entry["data_offsets"][1] + stop]
    }


DAMAGES = {
    "offset too late": lambda header, name: header | {name: moved(header[name], 4, 4)},
    "offset too early": lambda header, name: header | {name: moved(header[name], -4, -4)},
    "negative offset": lambda header, name: header | {name: moved(header[name], -(10**6), 0)},
    "shorter than its shape": lambda header, name: header | {name: moved(header[name], 0, -4)},
    "larger shape": lambda header, name: header | {name: header[name] | {"shape": [10**9, 10**9]}},
    "negative shape": lambda header, name: header | {name: header[name] | {"shape": [-1]}},
    "overflowing shape": lambda header, name: header | {name: header[name] | {"shape": [2**63, 2]}},
    "text as shape": lambda header, name: header | {name: header[name] | {"shape": "ab"}},
    "unknown dtype": lambda header, name: header | {name: header[name] | {"dtype": "F7"}},
    "no dtype": lambda header, name: header | {name: {"shape": [1], "data_offsets": [0, 4]}},
    "no entry": lambda header, name: header | {name: None},
    "no object": lambda header, name: [],
    "no JSON": lambda header, name: b"{",
    "nested": lambda header, name: DEEP.encode(),
    "missing bytes": lambda header, name: {n: e for n, e in header.items() if n != name},
}


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_file_that_git_lfs_left_out(folder, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / name).write_text(pointer)
    with pytest.raises(ValueError, match=rf"{name} is a Git LFS pointer.*`git lfs pull`"):
        load(folder)


@pytest.mark.parametrize(
    ("encoding", "advice"),
    [("utf-8-sig", "starts with a byte order mark"), ("utf-16", "is not UTF-8 text")],
)
def test_a_config_in_another_encoding(folder, encoding, advice):
    path = folder / "config.json"
    path.write_text(path.read_text(), encoding=encoding)
    with pytest.raises(ValueError, match=rf"config\.json {advice}.*save it as UTF-8"):
        load(folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_header(folder, damage):
    header, data = header_of(folder / WEIGHTS)
    name = sorted(set(header) - {"__metadata__"})[3]
    write_with_header(folder / WEIGHTS, DAMAGES[damage](header, name), data)
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or damaged"):
        load(folder)


def test_values_are_those_of_safetensors(folder):
    expected = load_file(folder / WEIGHTS)
    opened = open_safetensors(folder / WEIGHTS)
    assert opened.keys() == expected.keys()
    for name, tensor in opened.items():
        assert tensor.shape == expected[name].shape
        np.testing.assert_array_equal(tensor.read(), expected[name])


@pytest.mark.parametrize(
    ("dtype", "spelled"),
    [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("I8", "int8"), ("U8", "uint8")],
)
def test_weights_of_eight_bits_are_named(folder, dtype, spelled):
    tensors = load_file(folder / WEIGHTS)
    name = "bert.encoder.layer.0.output.dense.weight"
    tensors[name] = tensors[name].astype(np.int8)
    save_file(tensors, folder / WEIGHTS)
    header, data = header_of(folder / WEIGHTS)
    header[name]["dtype"] = dtype
    write_with_header(folder / WEIGHTS, header, data)
    with pytest.raises(ValueError, match=f"tensor {name} is {spelled}; .*quantised checkpoints"):
        load(folder)


@pytest.fixture
def shards(write_checkpoint):
    """Function that writes two shards, `extra` tensors in the second, and their index."""
    tensors = load_file(write_checkpoint("whole", num_labels=2) / WEIGHTS)

    def write(extra, changes):
        folder = write_checkpoint("sharded", tensors={})
        (folder / WEIGHTS).unlink()
        names = sorted(tensors)
        parts = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
        weight_map = {name: file for file, part in parts.items() for name in part}
        for file, part in parts.items():
            more = {name: extra(tensors[names[0]]) for name in names[:1]} if "2" in file else {}
            save_file({name: tensors[name] for name in part} | more, folder / file)
        index = {"weight_map": {n: f for n, f in (weight_map | changes).items() if f is not None}}
        (folder / INDEX).write_text(json.dumps(index))
        return folder, tensors

    return write


def test_a_second_copy_must_be_the_same(shards):
    folder, tensors = shards(np.copy, {})
    opened = open_tensors(folder)
    assert opened.keys() == tensors.keys()
    load(folder)


@pytest.mark.parametrize("stale", [np.zeros_like, lambda a: a[:-1], lambda a: a.astype(np.float16)])
def test_a_stale_copy_in_another_shard_is_named(shards, stale):
    folder, tensors = shards(stale, {})
    with pytest.raises(
        ValueError, match=f"holds the tensor {min(tensors)} twice, with other values"
    ):
        load(folder)


def test_an_index_that_leaves_a_copy_out_is_no_way_around(shards):
    folder, tensors = shards(np.zeros_like, {"bert.embeddings.LayerNorm.bias": None})
    assert min(tensors) == "bert.embeddings.LayerNorm.bias"
    with pytest.raises(ValueError, match="twice, with other values"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classifier.bias": "model-1.safetensors"},
            "says that model-1.safetensors holds the tens",
        ),
        ({"made.up": "model-1.safetensors"}, "holds the tensor made.up, but it does not"),
        ({"classifier.bias": 3}, "names 3, which is not a file"),
        ({"classifier.bias": ["model-1.safetensors"]}, "which is not a file of the folder"),
    ],
)
def test_an_index_that_does_not_fit(shards, changes, message):
    folder, _ = shards(np.copy, changes)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_an_adapter_beside_the_weights_is_not_overlooked(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter beside the weights"):
        load(folder)


@pytest.mark.parametrize("name", ["\ud83d", "a\udcff"])
def test_labels_that_no_file_can_hold(folder, tmp_path, name):
    names = ("a", name)
    with pytest.raises(ValueError, match="half a surrogate pair"):
        load_classifier(folder, label_names=names, key=jax.random.key(0))
    with pytest.raises(ValueError, match="half a surrogate pair"):
        save_model(load(folder), tmp_path / "out", source=folder, label_names=names)
