"""Merged adapters beside sums that are written out; what is refused, and that nothing is left."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpjax.cli.main import main
from dpjax.models import (
    LoraConfig,
    add_lora,
    load_adapter,
    merge_adapters,
    save_adapter,
)
from dpjax.models.adapters.files.merging import merge
from tests.support.tiny_checkpoints import random_model

TENSORS = "adapter_model.safetensors"
PLAIN = {"rank": 2, "alpha": 5, "target_modules": ("q_proj", "down_proj")}


@pytest.fixture
def write(tmp_path):
    """Writes an adapter with values of its own, and returns its folder."""

    def make(name, base="some/base", **options):
        model = random_model("llama", "causal_lm")
        add_lora(model, LoraConfig(**PLAIN | options), key=jax.random.key(0))
        save_adapter(model, tmp_path / name, base=base)
        path, rng = tmp_path / name / TENSORS, np.random.default_rng(ord(name))
        shapes = {tensor: value.shape for tensor, value in load_file(path).items()}
        save_file({n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}, path)
        return tmp_path / name

    return make


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def changes_of(folder):
    """What an adapter adds to each weight, `(out, in)`, with the scaling that its options say."""
    config, tensors, changes = config_of(folder), load_file(folder / TENSORS), {}

    def value_of(module, pattern, otherwise):
        fitting = (v for end, v in config.get(pattern, {}).items() if module.endswith(end))
        return next(fitting, config[otherwise])

    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            rank = value_of(module, "rank_pattern", "r")
            alpha = value_of(module, "alpha_pattern", "lora_alpha")
            scaling = alpha / (rank**0.5 if config["use_rslora"] else rank)
            b = tensors[name.replace("lora_A", "lora_B")].astype(np.float64)
            changes[module] = scaling * b @ a
    return changes


def weighted_sum(folders, weights):
    total = {}
    for folder, weight in zip(folders, weights, strict=True):
        for module, change in changes_of(folder).items():
            total[module] = total.get(module, 0) + weight * change
    return total


DIFFERENT = {"rank": 3, "target_modules": ("v_proj", "down_proj"), "use_rslora": True}
DIFFERENT |= {"rank_pattern": ("down_proj=5",), "alpha_pattern": ("v_proj=7",)}


@pytest.mark.parametrize("first", [{}, {"use_rslora": True}])
@pytest.mark.parametrize("options", [{}, DIFFERENT])
def test_cat_adds_exactly_the_weighted_sum(write, tmp_path, first, options):
    folders, weights = [write("a", **first), write("b", **options)], [0.75, -0.5]
    assert merge_adapters(folders, weights, tmp_path / "m", combination="cat") == ()
    expected, merged = weighted_sum(folders, weights), changes_of(tmp_path / "m")
    assert merged.keys() == expected.keys()
    for module, change in expected.items():
        np.testing.assert_allclose(merged[module], change, atol=1e-6, err_msg=module)
    assert config_of(tmp_path / "m")["r"] == (7 if options else 4)


def test_svd_is_the_best_approximation_of_the_largest_rank(write, tmp_path):
    folders, weights = [write("a"), write("b", **DIFFERENT)], [0.75, -0.5]
    merge_adapters(folders, weights, tmp_path / "m")
    merged = changes_of(tmp_path / "m")
    for module, change in weighted_sum(folders, weights).items():
        left, values, right = np.linalg.svd(change)
        best = left[:, :5] * values[:5] @ right[:5]
        np.testing.assert_allclose(merged[module], best, atol=1e-6, err_msg=module)


def test_linear_sums_a_and_b_by_themselves(write, tmp_path):
    folders, weights = [write("a"), write("b", alpha=3)], [0.75, -0.5]
    merge_adapters(folders, weights, tmp_path / "m", combination="linear")
    stored = [load_file(folder / TENSORS) for folder in folders]
    merged = load_file(tmp_path / "m" / TENSORS)
    roots = (0.75 * 5 / 2) ** 0.5, (0.5 * 3 / 2) ** 0.5
    for name, value in merged.items():
        sign = -1 if "lora_A" in name else 1
        expected = roots[0] * stored[0][name] + sign * roots[1] * stored[1][name]
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("combination", ["cat", "svd", "linear"])
def test_the_merged_adapter_loads(write, tmp_path, combination):
    merge_adapters([write("a"), write("b")], [1, 1], tmp_path / "m", combination=combination)
    model = random_model("llama", "causal_lm")
    load_adapter(model, tmp_path / "m")
    assert model.lora.rank == (4 if combination == "cat" else 2) and model.lora.scaling == 1


def test_what_was_trained_in_full_stays_where_it_is_the_same_in_all(write, tmp_path):
    one = write("a", modules_to_save=("norm",))
    other = write("b", modules_to_save=("norm",))
    tensors = load_file(other / TENSORS)
    saved = {n: v for n, v in load_file(one / TENSORS).items() if "lora" not in n}
    with pytest.raises(
        ValueError, match=r"a and .*b differ in model\.norm\.weight, which was train"
    ):
        merge_adapters([one, other], [1, 1], tmp_path / "m")
    save_file(tensors | saved, other / TENSORS)
    merge_adapters([one, other], [1, 1], tmp_path / "m")
    merged = load_file(tmp_path / "m" / TENSORS)
    for name, value in saved.items():
        np.testing.assert_array_equal(merged[name], value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": "other/base"}, r"belong to other bases, 'some/base' and 'other/base'"),
        ({"use_dora": True}, "use_dora = True: DoRA is no sum"),
        ({"trainable_token_indices": (3, 4)}, "trainable_token_indices: rows of tokens"),
        ({"modules_to_save": ("norm",)}, r"differ in modules_to_save, \[\] and \["),
        ({"rank": 3}, "combination=linear needs adapters of one rank, got 2, 3: use combination="),
        ({"rank_pattern": ("q_proj=1",)}, r"one rank, got 1, 2 for model\.layers\.0.*q_proj"),
    ],
)
def test_what_does_not_fit_together_is_refused(write, tmp_path, options, said):
    folders = [write("a"), write("b", **options)]
    with pytest.raises(ValueError, match=said):
        merge_adapters(folders, [1, 1], tmp_path / "m", combination="linear")
    assert not (tmp_path / "m").exists()


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(config_of(folder) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' began inside the base"),
        ({"task_type": "SEQ_CLS"}, "other tasks, task_type 'CAUSAL_LM' and 'SEQ_CLS'"),
        ({"peft_type": "IA3"}, "only 'LORA' is supported"),
        ({"bias": "all"}, "differ in bias, 'none' and 'all'"),
        ({"r": 4}, "adapter_config.json implies"),
        ({"lora_bias": True}, "lora_bias = True is not supported"),
    ],
)
def test_options_that_do_not_fit_are_refused(write, tmp_path, changes, said):
    folders = [write("a"), write("b")]
    change_config(folders[1], **changes)
    with pytest.raises(ValueError, match=said):
        merge_adapters(folders, [1, 1], tmp_path / "m")


def test_revisions_that_differ_are_refused_and_one_that_is_known_is_kept(write, tmp_path):
    folders = [write("a"), write("b")]
    change_config(folders[1], revision="1234")
    merge_adapters(folders, [1, 1], tmp_path / "m")
    assert config_of(tmp_path / "m")["revision"] == "1234"
    change_config(folders[0], revision="5678")
    with pytest.raises(ValueError, match="other revisions of 'some/base': '1234' and '5678'"):
        merge_adapters(folders, [1, 1], tmp_path / "n")


def test_other_sizes_are_another_base(write, tmp_path):
    folders = [write("a"), write("b")]
    path = folders[1] / TENSORS
    tensors = load_file(path)
    name = next(name for name in tensors if "down_proj.lora_A" in name)
    save_file(tensors | {name: np.zeros((2, 9), np.float32)}, path)
    with pytest.raises(ValueError, match=r"belong to other bases: .*down_proj has 48 inputs"):
        merge_adapters(folders, [1, 1], tmp_path / "m")
    save_file({n: v for n, v in tensors.items() if "q_proj.lora_B" not in n}, path)
    with pytest.raises(ValueError, match=r"q_proj\.lora_B\.weight is missing"):
        merge_adapters(folders, [1, 1], tmp_path / "m")


@pytest.mark.parametrize("combination", ["cat", "svd", "linear"])
def test_numbers_that_are_not_finite_are_refused(write, tmp_path, combination):
    folders = [write("a"), write("b")]
    path = folders[1] / TENSORS
    tensors = load_file(path)
    name = next(name for name in tensors if "q_proj.lora_B" in name)
    save_file(tensors | {name: np.full_like(tensors[name], np.nan)}, path)
    with pytest.raises(ValueError, match=r"b/adapter_model.*q_proj\.lora_B.* are not finite"):
        merge_adapters(folders, [1, 1], tmp_path / "m", combination=combination)
    assert not (tmp_path / "m").exists()


def test_how_the_base_was_held_stays_where_it_is_the_same_in_all(write, tmp_path, caplog):
    folders = [write("a"), write("b")]
    change_config(folders[0], dpjax_quantise="nf4")
    merge_adapters(folders, [1, 1], tmp_path / "m")
    assert "dpjax_quantise" not in config_of(tmp_path / "m")
    assert "was not held alike" in caplog.text and "a: nf4" in caplog.text
    change_config(folders[1], dpjax_quantise="nf4")
    merge_adapters(folders, [1, 1], tmp_path / "n")
    assert config_of(tmp_path / "n")["dpjax_quantise"] == "nf4"


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ([1], ValueError, "one number for each adapter, got 1 weights and 2 adapters"),
        ([1, 2, 3], ValueError, "got 3 weights and 2 adapters"),
        ([1, float("nan")], ValueError, "weights must be finite numbers, got nan"),
    ],
)
def test_weights_are_one_finite_number_for_each(write, tmp_path, weights, error, said):
    folders = [write("a"), write("b")]
    with pytest.raises(error, match=said):
        merge_adapters(folders, weights, tmp_path / "m")


def test_the_call_is_checked_first(tmp_path):
    with pytest.raises(ValueError, match=r"combination must be one of .*Did you mean 'linear'\?"):
        merge_adapters([], [], tmp_path / "m", combination="linaer")
    with pytest.raises(TypeError, match="folders must be a list of folders"):
        merge_adapters("a", [1], tmp_path / "m")
    with pytest.raises(ValueError, match="got 0 weights and 0 adapters"):
        merge_adapters([], [], tmp_path / "m")
    with pytest.raises(FileExistsError, match="Give a new folder"):
        merge_adapters(["a"], [1], tmp_path)
    with pytest.raises(FileNotFoundError, match="Make this folder first"):
        merge_adapters(["a"], [1], tmp_path / "none" / "m")
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        merge_adapters([tmp_path], [1], tmp_path / "m")


def test_a_run_or_a_file_in_the_place_of_an_adapter(write, tmp_path):
    adapter = write("a")
    with pytest.raises(NotADirectoryError, match=r"is a file; give the folder that holds adapter_"):
        merge_adapters([adapter / TENSORS], [1], tmp_path / "m")
    (tmp_path / "run").mkdir()
    adapter.rename(tmp_path / "run" / "adapter")
    with pytest.raises(FileNotFoundError, match=r"the adapter of a run is in .*run.adapter; give"):
        merge_adapters([tmp_path / "run"], [1], tmp_path / "m")


def test_nothing_is_left_of_a_merge_that_fails(write, tmp_path, monkeypatch):
    def fill_the_disk(folder, tensors, config):
        (folder / "adapter_config.json").write_text("half")
        raise OSError("No space left on device")

    folders = [write("a"), write("b")]
    monkeypatch.setattr(merge, "_write", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        merge_adapters(folders, [1, 1], tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_command_merges(write, tmp_path, capsys):
    folders, out = [str(write("a")), str(write("b"))], tmp_path / "m"
    call = ["merge-adapters", *folders, "--weights", "0.5", "-0.5", "--combination", "cat"]
    assert main([*call, "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    merged = changes_of(out)
    for module, change in weighted_sum(map(out.with_name, "ab"), [0.5, -0.5]).items():
        np.testing.assert_allclose(merged[module], change, atol=1e-6)
    assert main([*call, "--out", str(out)]) == 2
    assert "exists. Give a new folder." in capsys.readouterr().err
