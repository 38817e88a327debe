"""What every family must pass, whatever its switches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dpjax.models import (
    FAMILIES,
    Loading,
    load_causal_lm,
    load_classifier,
    load_masked_lm,
    load_token_classifier,
    parse_config,
    save_model,
)
from dpjax.privatize import clipped_grad
from tests.support.slow import mark_slow
from tests.support.tiny_checkpoints import (
    CONFIGS,
    DECODERS,
    FAMILIES_AND_TASKS,
    LABELS,
    VARIANTS,
    auto_class,
    ragged_batch,
    random_model,
    raw_config,
    run,
    write_config,
)

WITHOUT_LABELS = ("causal_lm", "masked_lm")
# All heads of these are quick to test; of the others most tests are slow.
CORE = ("bert", "gpt2", "llama", "gemma3_text")


def first_task(family):
    return next(task for name, task in FAMILIES_AND_TASKS if name == family)


def outside_core(family, task=None):
    return family not in CORE


every_head = pytest.mark.parametrize(
    ("family", "task"), mark_slow(FAMILIES_AND_TASKS, outside_core)
)
every_family = pytest.mark.parametrize("family", mark_slow(CONFIGS, outside_core))


def load(folder, task, **loading):
    if task == "causal_lm":
        return load_causal_lm(folder, loading=Loading(**loading))
    if task == "masked_lm":
        return load_masked_lm(folder, loading=Loading(**loading))
    make = load_classifier if task == "sequence_classification" else load_token_classifier
    key = jax.random.key(0)
    return make(folder, label_names=LABELS, key=key, loading=Loading(**loading))


def original(family, task, folder, **changes):
    """A random model that transformers made, written to `folder`."""
    torch = pytest.importorskip("torch")
    import transformers

    raw = raw_config(family, num_labels=len(LABELS), **changes)
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    torch.manual_seed(0)
    # Their other implementations of attention give padding without a visible key other values.
    made = getattr(transformers, auto_class(family, task)).from_config(
        config, attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    return made.eval()


def padded_batch(made):
    """The ragged batch with the padding of a model: an encoder may read a text from there."""
    ids, mask = ragged_batch()
    return jnp.where(mask, ids, made.config.get_text_config().pad_token_id), mask


def logits_of(made, ids, mask):
    import torch

    ids, mask = np.asarray(ids, np.int64), np.asarray(mask)
    kind, padding = made.config.model_type, made.config.get_text_config().pad_token_id
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    if kind != "distilbert":
        # By itself transformers counts padding on the left as positions in most families.
        first = padding + 1 if "roberta" in kind else 0
        inputs["position_ids"] = np.maximum(np.cumsum(mask, axis=1) - 1, 0) + first
    with torch.no_grad():
        outputs = made(**{name: torch.tensor(value) for name, value in inputs.items()})
    return outputs.logits.float().numpy()


def rows_to_compare(family, task, mask):
    """Every token; of DistilBERT, which takes no positions, not those after padding."""
    rows = np.asarray(mask) if task != "sequence_classification" else np.ones(len(mask), bool)
    if family == "distilbert":
        rows = rows.copy()
        rows[2] = False
    return rows


@pytest.mark.quick_cases(8)
@pytest.mark.parametrize(
    ("family", "task"),
    # One head shows what a family computes below it.
    mark_slow(
        FAMILIES_AND_TASKS,
        lambda family, task: family not in CORE and task != first_task(family),
    ),
)
def test_logits_equal_those_of_transformers(family, task, tmp_path):
    made = original(family, task, tmp_path / "original")
    ids, mask = padded_batch(made)
    expected, rows = logits_of(made, ids, mask), rows_to_compare(family, task, mask)
    model = load(tmp_path / "original", task)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(run(model, ids, mask)[rows], expected[rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    mark_slow(
        [(name, one) for name, many in VARIANTS.items() for one in many],
        lambda family, changes: family in ("mixtral", "qwen3_moe", "mistral"),
    ),
)
def test_other_switches_equal_transformers(family, changes, tmp_path):
    made = original(family, "causal_lm", tmp_path / "original", **changes)
    ids, mask = padded_batch(made)
    expected = logits_of(made, ids, mask)
    model = load(tmp_path / "original", "causal_lm")
    rows = np.asarray(mask)
    np.testing.assert_allclose(run(model, ids, mask)[rows], expected[rows], atol=1e-5, rtol=1e-5)


@every_head
def test_saved_models_open_in_transformers(family, task, tmp_path):
    pytest.importorskip("torch")
    import transformers

    model = random_model(family, task)
    source, out = write_config(tmp_path / "source", family), tmp_path / "saved"
    save_model(model, out, source=source, label_names=() if task in WITHOUT_LABELS else LABELS)
    # Of a model that reads pictures too, its text model is saved.
    kind = "text" if FAMILIES[family].text_families else family
    opened, report = getattr(transformers, auto_class(kind, task)).from_pretrained(
        out, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, mask = padded_batch(opened)
    expected, rows = logits_of(opened.eval(), ids, mask), rows_to_compare(family, task, mask)
    np.testing.assert_allclose(run(model, ids, mask)[rows], expected[rows], atol=1e-5, rtol=1e-5)


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize(("family", "task"), FAMILIES_AND_TASKS)
def test_a_saved_model_is_loaded_as_it_was(family, task, tmp_path):
    model = random_model(family, task)
    source, out = write_config(tmp_path / "source", family), tmp_path / "saved"
    labels = () if task in WITHOUT_LABELS else LABELS
    save_model(model, out, source=source, label_names=labels, shard_bytes=20_000)
    assert (out / "model.safetensors.index.json").is_file()
    loaded = load(out, task)
    kind = CONFIGS[family].get("text_config", {}).get("model_type", family)
    assert loaded.config == dataclasses.replace(model.config, model_type=kind)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), nnx.state(model))
    stacked = load(out, task, scan_layers=True)
    save_model(stacked, tmp_path / "again", source=source, label_names=labels)
    again = load(tmp_path / "again", task)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(model))


def loss_and_gradient(model, ids, mask):
    graphdef, parameters = nnx.split(model)

    def loss(parameters):
        logits = nnx.merge(graphdef, parameters)(ids, mask)
        return jnp.sum(jnp.sin(jnp.where(mask[..., None], logits, 0.0)))

    return jax.jit(jax.value_and_grad(loss))(parameters)


@every_family
def test_stacked_rematerialised_layers_change_nothing(family, tmp_path):
    task = "causal_lm" if family in DECODERS else "token_classification"
    model = random_model(family, task)
    source, out = write_config(tmp_path / "source", family), tmp_path / "saved"
    save_model(model, out, source=source, label_names=() if task in WITHOUT_LABELS else LABELS)
    stacked = load(out, task, scan_layers=True, rematerialise=True)
    ids, mask = ragged_batch()
    value, gradient = loss_and_gradient(model, ids, mask)
    stacked_value, stacked_gradient = loss_and_gradient(stacked, ids, mask)
    np.testing.assert_allclose(stacked_value, value, rtol=1e-5)
    layers = nnx.to_pure_dict(gradient)["transformer"]["layers"]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers.values())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
        nnx.to_pure_dict(stacked_gradient)["transformer"]["layers"],
        expected,
    )


@pytest.mark.parametrize("family", mark_slow(DECODERS, outside_core))
def test_no_token_sees_later_ones(family):
    model = random_model(family, "causal_lm")
    graphdef, parameters = nnx.split(model)
    full = jnp.ones(14, bool)

    def of_position(table):
        changed = nnx.to_pure_dict(parameters)
        changed["transformer"]["embed_tokens"]["embedding"] = table
        # Distinct tokens, so that a row of the table is a position.
        hidden = nnx.merge(graphdef, changed).transformer(jnp.arange(3, 17), full)
        return jnp.sum(hidden[6])

    table = model.transformer.embed_tokens.embedding[...]
    gradient = np.abs(jax.jit(jax.grad(of_position))(table)).max(axis=1)
    assert (gradient[3 + 7 : 17] == 0).all()
    assert gradient[3 + 6] > 0


@every_family
def test_padding_changes_nothing(family):
    task = first_task(family)
    model = random_model(family, task)
    ids, _ = ragged_batch()
    text, full = ids[0, :9], jnp.ones(9, bool)
    expected = run(model, text, full)
    padded = jnp.stack([jnp.pad(text, (0, 5), constant_values=7), jnp.pad(text, (5, 0))])
    mask = jnp.stack([jnp.pad(full, (0, 5)), jnp.pad(full, (5, 0))])
    right, left = run(model, padded, mask)
    if task == "causal_lm":
        right, left = right[:9], left[5:]
    np.testing.assert_allclose(right, expected, atol=2e-5)
    if model.config.causal:
        # An encoder's text is read from its first place.
        np.testing.assert_allclose(left, expected, atol=2e-5)


@pytest.mark.slow
@every_family
def test_clipped_gradients_equal_a_loop(family):
    task = first_task(family)
    model = random_model(family, task, scan_layers=True, rematerialise=True)
    graphdef, state = nnx.split(model)
    parameters = nnx.to_pure_dict(state)
    ids, mask = (part[:3, :10] for part in ragged_batch())

    def loss(parameters, example):
        ids, mask = example
        logits = nnx.merge(graphdef, parameters)(ids, mask)
        if task != "causal_lm":
            return optax.softmax_cross_entropy_with_integer_labels(logits, ids[0] % 3)
        each = optax.softmax_cross_entropy_with_integer_labels(logits[:-1], ids[1:])
        return jnp.sum(jnp.where(mask[1:], each, 0.0))

    @jax.jit
    def fast(parameters):
        result = clipped_grad(loss, clip_norm=0.5, strategy="two_backwards")(
            parameters, (ids, mask)
        )
        return result.grads, result.norms

    one = jax.jit(jax.grad(loss))
    total, norms = jax.tree.map(jnp.zeros_like, parameters), []
    for example in zip(ids, mask, strict=True):
        gradient = one(parameters, example)
        norms.append(optax.tree.norm(gradient))
        factor = min(1.0, 0.5 / norms[-1])
        total = jax.tree.map(lambda t, g, c=factor: t + c * g, total, gradient)
    grads, found = fast(parameters)
    np.testing.assert_allclose(found, norms, rtol=2e-5)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, grads, total))
    assert difference <= 2e-5 * optax.tree.norm(total)


@every_family
def test_bfloat16_is_close(family):
    task = first_task(family)
    model = random_model(family, task)
    ids, mask = ragged_batch()
    rows = np.asarray(mask) if task == "causal_lm" else np.ones(len(ids), bool)
    expected = np.asarray(run(model, ids, mask))[rows]
    graphdef = nnx.graphdef(random_model(family, task, dtype="bfloat16"))
    half = nnx.merge(graphdef, nnx.to_pure_dict(nnx.state(model)))
    found = np.asarray(run(half, ids, mask))[rows]
    assert found.dtype == np.float32
    errors = np.mean((found - expected) ** 2, axis=-1) / np.mean(expected**2)
    if model.config.num_experts:
        # A token whose best experts are nearly alike may get another one.
        errors = np.sort(errors)[: -len(errors) // 10]
    assert 0 < np.sqrt(np.mean(errors)) < 2e-2


def test_old_and_new_spellings_of_a_configuration_are_one():
    old = parse_config(raw_config("llama"))
    scaling = {**CONFIGS["llama"]["rope_scaling"], "rope_theta": 1e4}
    new = raw_config("llama", rope_parameters=scaling)
    new = {name: value for name, value in new.items() if name not in ("rope_scaling", "rope_theta")}
    assert parse_config(new) == old
    assert dataclasses.asdict(old)["rope"]["llama3"] == (8.0, 1.0, 4.0, 16)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (
            "llama",
            {"rope_scaling": {"rope_type": "proportional", "factor": 4.0}},
            "RoPE of type 'proportional'",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": "no"}},
            "truncate .* must be true or false, got 'no'",
        ),
        ("qwen3_moe", {"mlp_only_layers": [1]}, r"mlp_only_layers = \[1\] is not supported"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step = 2 is not supported"),
        ("mixtral", {"num_experts_per_tok": 4}, "between 1 and num_experts = 3, got 4"),
        ("granite", {"logits_scaling": 0.0}, "logits_scaling must be a positive number"),
        ("llama", {"hidden_act": "mish"}, "hidden_act = 'mish' is not supported"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim = 16 is not supported"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("mistral", {"quantization_config": {"bits": 4}}, "quantised checkpoints"),
    ],
)
def test_what_would_change_the_computation_is_refused(family, change, message):
    with pytest.raises(ValueError, match=message):
        parse_config(raw_config(family, **change))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_an_encoder_is_no_language_model(family, tmp_path):
    folder = write_config(tmp_path / "model", family)
    with pytest.raises(ValueError, match="no head for causal lm; it has one for sequence"):
        load_causal_lm(folder)
