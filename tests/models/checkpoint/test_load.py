import json
import logging

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from dpjax.models import load_classifier, read_config
from dpjax.models.families import family_of

ABC = ("a", "b", "c")


def load(folder, label_names=ABC, **options):
    return load_classifier(folder, label_names=label_names, key=jax.random.key(0), **options)


def kernel(model):
    return np.asarray(model.transformer.layers[1].self_attn.q_proj.kernel[...])


def test_every_tensor_of_the_file_arrives_in_float32(model, make_tensors, bert_config):
    tensors = make_tensors(bert_config, num_labels=3)
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))
    assert sum(leaf.size for leaf in leaves) == sum(tensor.size for tensor in tensors.values())
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(
        kernel(model), tensors["bert.encoder.layer.1.attention.self.query.weight"].T
    )


def test_the_layers_kept_are_the_lowest(write_checkpoint, make_tensors, bert_config, batch):
    whole = write_checkpoint("whole", num_labels=3)
    tensors = load_file(whole / "model.safetensors")
    lower = {name: value for name, value in tensors.items() if ".layer.1." not in name}
    config = bert_config | {"num_hidden_layers": 1}
    expected = load(write_checkpoint("lower", config=config, tensors=lower))
    shortened = load(whole, num_layers=1)
    assert shortened.config == expected.config
    np.testing.assert_array_equal(shortened(*batch), expected(*batch))
    assert load(whole, num_layers=2).config.num_layers == 2


@pytest.mark.parametrize("num_layers", [0, 3])
def test_more_layers_than_there_are(folder, num_layers):
    with pytest.raises(ValueError, match=rf"num_layers={num_layers}: the checkpoint has 2 layers"):
        load(folder, num_layers=num_layers)


def test_table_of_names_is_invertible(folder):
    weights = family_of("bert").weight_names(read_config(folder), "sequence_classification")
    assert len({weight.path for weight in weights}) == len(weights)
    assert {weight.hf_name for weight in weights} == set(load_file(folder / "model.safetensors"))


def test_names_of_older_checkpoints_are_understood(write_checkpoint, make_tensors, bert_config):
    expected = load(write_checkpoint("new", num_labels=3))
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in make_tensors(bert_config, num_labels=3).items()
    }
    tensors["bert.embeddings.position_ids"] = np.arange(20)[None]
    tensors["cls.predictions.bias"] = np.zeros(50, np.float32)
    old = load(write_checkpoint("old", tensors=tensors))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(old), nnx.state(expected))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_formats_are_cast(write_checkpoint, make_tensors, bert_config, dtype):
    tensors = make_tensors(bert_config, num_labels=3)
    folder = write_checkpoint(tensors={name: t.astype(dtype) for name, t in tensors.items()})
    model = load(folder)
    assert kernel(model).dtype == np.float32
    expected = tensors["bert.encoder.layer.1.attention.self.query.weight"].T
    np.testing.assert_array_equal(kernel(model), expected.astype(dtype).astype(np.float32))


def test_sharded_checkpoint_equals_the_single_file(write_checkpoint, folder):
    tensors = load_file(folder / "model.safetensors")
    sharded = write_checkpoint("sharded", tensors={})
    (sharded / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, sharded / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(load(sharded)), nnx.state(load(folder)))
    (sharded / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names model-2.safetensors, which is missing"):
        load(sharded)
    index.write_text(json.dumps({"weight_map": {"classifier.bias": "../model.safetensors"}}))
    with pytest.raises(ValueError, match="not a file of the folder"):
        load(sharded)
    index.write_text(json.dumps({"metadata": {}}))
    with pytest.raises(ValueError, match="weight_map"):
        load(sharded)


class TestHead:
    def test_new_head_is_reproducible_and_small(self, write_checkpoint, caplog):
        folder = write_checkpoint()
        with caplog.at_level(logging.INFO):
            model = load(folder, ("a", "b"))
        assert "no classification head" in caplog.text
        head = model.classifier
        assert head.kernel.shape == (24, 2)
        assert 0.01 < float(head.kernel[...].std()) < 0.03
        assert not head.bias[...].any()
        again = load(folder, ("a", "b")).classifier.kernel[...]
        np.testing.assert_array_equal(head.kernel[...], again)
        other = load_classifier(folder, label_names=("a", "b"), key=jax.random.key(1))
        assert not np.array_equal(head.kernel[...], other.classifier.kernel[...])

    def test_head_with_as_many_labels_is_used(self, folder, model, caplog):
        with caplog.at_level(logging.INFO):
            load(folder)
        assert "using the checkpoint's classification head (3 labels)" in caplog.text
        expected = load_file(folder / "model.safetensors")["classifier.weight"].T
        np.testing.assert_array_equal(model.classifier.kernel[...], expected)

    def test_head_with_another_number_of_labels_is_replaced(self, folder, caplog):
        model = load(folder, ("a", "b"))
        assert "has 3 labels, the data 2" in caplog.text
        assert model.classifier.kernel.shape == (24, 2)

    def test_rows_follow_the_label_names(self, write_checkpoint, bert_config, batch):
        names = {"id2label": {"0": "b", "1": "c", "2": "a"}}
        folder = write_checkpoint(config=bert_config | names, num_labels=3)
        np.testing.assert_array_equal(
            load(folder)(*batch), np.asarray(load(folder, ("b", "c", "a"))(*batch))[:, [2, 0, 1]]
        )

    @pytest.mark.parametrize("label_names", [(), ("a",), ("a", "a"), "ab"])
    def test_label_names_that_make_no_classifier_are_refused(self, folder, label_names):
        with pytest.raises(ValueError, match="label names"):
            load(folder, label_names)


class TestBadCheckpoint:
    def test_missing_and_unexpected_tensors_are_listed(
        self, write_checkpoint, make_tensors, bert_config
    ):
        tensors = make_tensors(bert_config)
        tensors["pooler.extra"] = tensors.pop("pooler.dense.bias")
        with pytest.raises(
            ValueError, match=r"missing: bert\.pooler\.dense\.bias; unexpected: bert\.pooler\.extra"
        ):
            load(write_checkpoint(tensors=tensors))

    def test_half_a_head_is_an_error(self, write_checkpoint, make_tensors, bert_config):
        tensors = make_tensors(bert_config, num_labels=3)
        del tensors["classifier.weight"]
        with pytest.raises(ValueError, match=r"missing: classifier\.weight"):
            load(write_checkpoint(tensors=tensors))

    def test_a_tensor_under_two_names_is_an_error(
        self, write_checkpoint, make_tensors, bert_config
    ):
        tensors = make_tensors(bert_config)
        tensors["bert.pooler.dense.bias"] = tensors["pooler.dense.bias"]
        with pytest.raises(ValueError, match=r"bert\.pooler\.dense\.bias occurs under two names"):
            load(write_checkpoint(tensors=tensors))

    def test_wrong_shape_names_both_shapes(self, write_checkpoint, make_tensors, bert_config):
        tensors = make_tensors(bert_config | {"intermediate_size": 41})
        with pytest.raises(
            ValueError, match=r"intermediate\.dense\.weight has shape \(41, 24\).*\(40, 24\)"
        ):
            load(write_checkpoint(tensors=tensors))

    def test_quantised_tensor_is_refused(self, write_checkpoint, make_tensors, bert_config):
        tensors = make_tensors(bert_config)
        tensors["pooler.dense.weight"] = tensors["pooler.dense.weight"].astype(np.int8)
        with pytest.raises(ValueError, match=r"pooler\.dense\.weight is int8"):
            load(write_checkpoint(tensors=tensors))

    @pytest.mark.parametrize("size", [0, 4, 100, -1])
    def test_truncated_file(self, folder, size):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match="truncated or damaged"):
            load(folder)

    def test_pickles_are_refused_with_the_way_out(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(FileNotFoundError, match=r"pickles \(pytorch_model.bin\).*save_pret"):
            load(folder)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
            load(folder)

    def test_no_config(self, folder):
        (folder / "config.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"has no config\.json.* save_pretrained of"):
            load(folder)
        (folder / "model.gguf").touch()
        with pytest.raises(FileNotFoundError, match=r"`dpjax convert-gguf` makes one of .*\.gguf"):
            load(folder)
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(FileNotFoundError, match=r"it holds an adapter: give the checkpoint"):
            load(folder)

    def test_the_folder_of_a_run(self, folder, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        folder.rename(run / "model")
        (run / "config.json").write_text('{"tuning": "full"}')
        with pytest.raises(
            ValueError, match=r"no model_type.*tuned model of a run is in .*run.mod"
        ):
            load(run)

    def test_weights_under_another_name(self, folder):
        (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
        with pytest.raises(FileNotFoundError, match=r"json, only consolidated\.safetensors: copy"):
            load(folder)

    @pytest.mark.parametrize("text", ["{", "[]", "{}"])
    def test_config_that_is_none(self, folder, text):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"not valid JSON|not a JSON object|no model_type"):
            load(folder)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_type": "t5"}, "'t5' is not supported; supported: gpt2, gpt_neox, opt"),
            ({"model_type": "brt"}, "Did you mean 'bert'"),
            # transformers has it: it is not misspelt.
            (
                {"model_type": "gemma3n"},
                r"distilbert\. Take a checkpoint of one of these families\.$",
            ),
            ({"quantization_config": {"bits": 4}}, "and compute.quantise to hold it in few bits"),
            ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
            ({"is_decoder": True}, "is_decoder = True is not supported"),
            ({"add_cross_attention": True}, "add_cross_attention"),
            ({"quantization_config": {"bits": 4}}, "quantization_config"),
            ({"hidden_act": "mish"}, "hidden_act = 'mish' is not supported, only gelu,"),
            ({"hidden_size": "24"}, "hidden_size must be a positive whole number, got '24'"),
            ({"num_attention_heads": 5}, "5 attention heads do not divide the hidden size 24"),
        ],
    )
    def test_unsupported_config(self, write_checkpoint, bert_config, change, message):
        folder = write_checkpoint(config=bert_config | change, tensors={})
        with pytest.raises(ValueError, match=message):
            read_config(folder)

    def test_missing_size(self, write_checkpoint, bert_config):
        del bert_config["vocab_size"]
        with pytest.raises(
            ValueError, match="vocab_size must be a whole number, but it is missing"
        ):
            read_config(write_checkpoint(config=bert_config, tensors={}))
