"""Models with quantised layers compute what they do with the weights that the codes stand for."""

import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from dpjax.models import (
    CausalLM,
    Loading,
    LoraConfig,
    Trainable,
    abstract_model,
    add_lora,
    load_causal_lm,
    load_classifier,
    read_config,
    save_model,
    split_trainable,
)
from dpjax.models.net.quantised import quantised_layers, quantised_product
from dpjax.models.net.weight_codes import decode, encode
from dpjax.privatize import clipped_grad, split_frozen_part
from tests.support.tiny_checkpoints import (
    LABELS,
    ragged_batch,
    random_model,
    run,
    write_config,
)

KINDS = ("int8", "nf4")
SIZES = {"hidden_size": 64, "intermediate_size": 96}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folders(kind, tmp_path_factory):
    """Function from a family to a checkpoint, and one of the weights that its codes stand for."""
    made = {}

    def make(family):
        if family in made:
            return made[family]
        root = tmp_path_factory.mktemp(family)
        source = write_config(root / "source", family, **(SIZES if family == "llama" else {}))
        task = "sequence_classification" if family == "bert" else "causal_lm"
        labels = LABELS if family == "bert" else ()
        model = random_model(family, task)
        if family == "llama":
            model = CausalLM(read_config(source), rngs=nnx.Rngs(0))
        save_model(model, root / "base", source=source, label_names=labels)
        loaded = load(root / "base", family, quantise=kind)
        save_model(loaded, root / "rounded", source=source, label_names=labels)
        made[family] = root / "base", root / "rounded"
        return made[family]

    return make


def load(folder, family, **loading):
    if family != "bert":
        return load_causal_lm(folder, loading=Loading(**loading))
    key = jax.random.key(0)
    return load_classifier(folder, label_names=LABELS, key=key, loading=Loading(**loading))


def test_the_saved_weights_are_the_rounded_ones_and_no_other_changes(folders, kind):
    base, after = (load_file(f / "model.safetensors") for f in folders("llama"))
    assert base.keys() == after.keys()
    for name, weight in base.items():
        is_linear = "layers" in name and name.endswith("proj.weight")
        kernel = jnp.asarray(weight.T)
        expected = decode(*encode(kernel, kind), len(kernel)).T if is_linear else weight
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
        assert is_linear != np.array_equal(after[name], weight)


@pytest.mark.parametrize("loading", [{}, {"scan_layers": True}, {"dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.quick_cases(2)
def test_logits_are_those_of_the_rounded_weights(folders, kind, family, loading):
    base, after = folders(family)
    batch = ragged_batch()
    found = run(load(base, family, quantise=kind, **loading), *batch)
    expected = run(load(after, family, **loading), *batch)
    plain = run(load(base, family, **loading), *batch)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(found - plain).max() > 1e-3


def losses(split, ids, mask):
    def loss(trainable, record):
        logits = nnx.merge(split.graphdef, trainable, split.frozen)(*record)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), record[0][:, None], -1)
        return -jnp.mean(chosen)

    return loss


@pytest.mark.parametrize("loading", [{}, {"scan_layers": True}, {"rematerialise": True}], ids=str)
@pytest.mark.parametrize("strategy", ["materialize", "one_backward", "two_backwards", "auto"])
@pytest.mark.quick_cases(1)
def test_clipped_gradients_are_those_of_the_rounded_weights(folders, kind, strategy, loading):
    ids, mask = ragged_batch()
    sums = []
    for folder, quantise in zip(folders("llama"), (kind, "none"), strict=True):
        model = load(folder, "llama", quantise=quantise, **loading)
        add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        split = split_trainable(model, Trainable.lora())
        moved = jax.tree.map(lambda leaf: leaf + 0.05, split.trainable)
        gradient = clipped_grad(losses(split, ids, mask), clip_norm=0.1, strategy=strategy)
        batch = (ids, mask)
        sums.append(jax.jit(gradient)(moved, batch, jnp.arange(4) != 1))
    np.testing.assert_allclose(sums[0].norms, sums[1].norms, rtol=1e-4)
    for found, expected in zip(*map(jax.tree.leaves, (s.grads for s in sums)), strict=True):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=1e-4 * scale)


def test_the_product_has_the_gradient_of_the_rounded_kernel(kind):
    x, y, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(SHAPES))
    codes, scales = encode(kernel, kind)
    full = decode(codes, scales, 70)
    found = jax.grad(lambda x: jnp.vdot(quantised_product(x, codes, scales, 70), y))(x)
    np.testing.assert_allclose(found, y @ full.T, rtol=1e-5, atol=1e-5)


SHAPES = ((3, 70), (3, 9), (70, 9))


def test_between_forward_and_backward_pass_no_kernel_is_kept(kind):
    x, kernel = jnp.ones((3, 70)), jnp.ones((70, 9))
    pair = encode(kernel, kind)

    def kept(product):
        backward = jax.eval_shape(lambda x: jax.vjp(product, x)[1], x)
        return {(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(backward)}

    assert kept(lambda x: quantised_product(x, *pair, 70)) == {
        (part.shape, part.dtype.name) for part in pair
    }
    # What JAX does with a product as it is written: the test would see it.
    assert ((70, 9), "float32") in kept(lambda x: x @ decode(*pair, 70))


def test_a_loop_over_layers_keeps_no_kernel_and_no_copy_of_codes(tmp_path, kind):
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3}
    folder = write_config(tmp_path / "config", "llama", **sizes)
    loading = Loading(quantise=kind, scan_layers=True)
    lora = LoraConfig(rank=2, target_modules=("q_proj", "down_proj"))
    split = split_trainable(
        abstract_model(folder, "causal_lm", lora=lora, loading=loading), Trainable.lora()
    )

    def loss(trainable, frozen, ids):
        model = nnx.merge(split.graphdef, trainable, frozen)
        return jnp.mean(model(ids, jnp.ones(8, bool)))

    ids = jax.ShapeDtypeStruct((8,), jnp.int32)
    program = jax.make_jaxpr(jax.grad(loss))(split.trainable, split.frozen, ids)
    loops = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
    assert len(loops) == 2
    for loop in loops:
        codes = split.frozen["transformer"]["layers"]["mlp"]["up_proj"]["codes"]
        assert codes.shape in [var.aval.shape for var in loop.invars]
        made = [var.aval for var in loop.outvars]
        assert codes.dtype not in [aval.dtype for aval in made]
        # The smallest kernel has 128 inputs and 64 outputs; 8 tokens make nothing as large.
        assert max(math.prod(aval.shape) for aval in made) < 3 * 128 * 64


def test_the_frozen_part_of_a_loss_is_found_below_and_between_codes(kind):
    codes = encode(jnp.ones((70, 70)), kind)

    def loss(params, x, codes):
        hidden = jnp.tanh(quantised_product(x, *codes, 70))
        return jnp.sum(jnp.tanh(quantised_product(hidden, *codes, 70)) @ params)

    params, x = jnp.ones(70), jax.random.normal(jax.random.key(0), (3, 70))
    part = split_frozen_part(loss, params, x, codes)
    assert [feature.shape for feature in part.features] == [(3, 70)]
    finished = part.finish(params, part.compute(x, codes), None, codes)
    np.testing.assert_allclose(finished, loss(params, x, codes), rtol=1e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_bytes_and_counts(tmp_path, kind, scan_layers):
    """Of an abstract model of real sizes: nothing is drawn."""
    big = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 3}
    folder = write_config(tmp_path / "config", "llama", **big)

    def split(quantise):
        loading = Loading(quantise=quantise, scan_layers=scan_layers)
        model = abstract_model(folder, "causal_lm", lora=LoraConfig(rank=2), loading=loading)
        return split_trainable(model, Trainable.lora())

    def bytes_of_layers(split):
        leaves = jax.tree_util.tree_leaves_with_path(split.frozen["transformer"]["layers"])
        names = ("kernel", "codes", "scales")
        return sum(leaf.size * leaf.dtype.itemsize for p, leaf in leaves if p[-1].key in names)

    full, held = split("none"), split(kind)
    ratio = bytes_of_layers(full) / bytes_of_layers(held)
    assert ratio == pytest.approx({"int8": 4.0, "nf4": 32 / 4.25}[kind], rel=0.01)
    assert held.describe_share() == full.describe_share()
    assert held.num_frozen == full.num_frozen


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.quick_cases(2)
def test_the_model_of_shapes_is_the_loaded_one(folders, kind, scan_layers):
    loading = Loading(quantise=kind, scan_layers=scan_layers, param_dtype="bfloat16")
    folder, _ = folders("llama")
    splits = [
        split_trainable(model, Trainable.head())
        for model in (
            abstract_model(folder, "causal_lm", loading=loading),
            load_causal_lm(folder, loading=loading),
        )
    ]
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), split[1:]) for split in splits
    ]
    assert splits[0].graphdef == splits[1].graphdef
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_an_appended_layer_is_not_rounded(folders, kind, tmp_path):
    base, _ = folders("bert")
    loading = Loading(quantise=kind)
    options = {"label_names": LABELS, "key": jax.random.key(0), "loading": loading}
    model = load_classifier(base, **options, pooling="mean")
    assert {path[2] for path in quantised_layers(model)} == {0, 1}
    save_model(model, tmp_path / "longer", source=base, label_names=LABELS)
    again = load_classifier(tmp_path / "longer", **options)
    with pytest.raises(ValueError, match="a layer for mean pooling already"):
        load_classifier(tmp_path / "longer", **options, pooling="mean")
    assert {path[2] for path in quantised_layers(again)} == {0, 1}
    batch = ragged_batch()
    np.testing.assert_allclose(run(model, *batch), run(again, *batch), rtol=1e-3, atol=1e-3)
    abstract = abstract_model(
        base, "sequence_classification", num_labels=3, pooling="mean", loading=loading
    )
    assert nnx.graphdef(abstract) == nnx.graphdef(model)


def test_weights_that_are_no_numbers_are_refused(folders, kind, tmp_path):
    base, _ = folders("llama")
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 5] = np.nan
    shutil.copyfile(base / "config.json", tmp_path / "config.json")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"tensor {name} has infinite.* held as {kind}"):
        load(tmp_path, "llama", quantise=kind)


def test_other_values_are_refused():
    with pytest.raises(ValueError, match=r"quantise must be one of none, int8, nf4, got 'nf5'"):
        Loading(quantise="nf5")


@pytest.mark.parametrize(
    "trainable",
    [Trainable.full(), Trainable.last_layers(1), Trainable.matching(r".*up_proj.*")],
    ids=lambda trainable: trainable.kind,
)
def test_codes_are_not_trained(folders, kind, trainable):
    model = load(folders("llama")[0], "llama", quantise=kind)
    with pytest.raises(ValueError, match=rf"'{trainable.kind}' trains .*layers\..*\({kind}\)"):
        split_trainable(model, trainable)
