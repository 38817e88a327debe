"""Models of shapes alone are those that loading a checkpoint gives, for every family and task."""

import jax
import pytest

from dpjax.models import (
    Loading,
    LoraConfig,
    Trainable,
    abstract_model,
    add_lora,
    load_causal_lm,
    load_classifier,
    load_token_classifier,
    save_model,
    split_trainable,
)
from tests.support.tiny_checkpoints import (
    FAMILIES_AND_TASKS,
    LABELS,
    random_model,
    write_config,
)

LORA = LoraConfig(rank=2)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def num_labels(task):
    return None if task in ("causal_lm", "masked_lm") else len(LABELS)


@pytest.mark.parametrize(("family", "task"), FAMILIES_AND_TASKS)
@pytest.mark.quick_cases(2)
def test_as_the_random_model_of_the_family(family, task, tmp_path):
    folder = write_config(tmp_path / "shapes", family)
    abstract = abstract_model(folder, task, num_labels=num_labels(task), lora=LORA)
    split = split_trainable(abstract, Trainable.lora())
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(split[1:]))
    model = random_model(family, task)
    add_lora(model, LORA, key=jax.random.key(0))
    concrete = split_trainable(model, Trainable.lora())
    assert split.graphdef == concrete.graphdef
    assert shapes(split.trainable) == shapes(concrete.trainable)
    assert shapes(split.frozen) == shapes(concrete.frozen)
    assert split.describe_share() == concrete.describe_share()


@pytest.mark.parametrize(
    "loading", [Loading(param_dtype="bfloat16"), Loading(scan_layers=True, dtype="bfloat16")]
)
def test_as_the_loaded_checkpoint(loading, tmp_path):
    folder = write_config(tmp_path / "source", "llama")
    save_model(random_model("llama", "causal_lm"), tmp_path / "saved", source=folder)
    loaded = split_trainable(load_causal_lm(tmp_path / "saved", loading=loading), Trainable.full())
    split = split_trainable(
        abstract_model(tmp_path / "saved", "causal_lm", loading=loading), Trainable.full()
    )
    assert split.graphdef == loaded.graphdef
    assert shapes(split.trainable) == shapes(loaded.trainable)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_classifiers_with_pooling_and_fewer_layers(pooling, tmp_path):
    folder = write_config(tmp_path / "source", "bert")
    save_model(
        random_model("bert", "token_classification"),
        tmp_path / "saved",
        source=folder,
        label_names=LABELS,
    )
    options = {"pooling": pooling, "num_layers": 1}
    key = jax.random.key(0)
    loaded = load_classifier(tmp_path / "saved", label_names=("no", "yes"), key=key, **options)
    abstract = abstract_model(
        tmp_path / "saved", "sequence_classification", num_labels=2, **options
    )
    for kind in (Trainable.full(), Trainable.last_layers(1)):
        split, concrete = split_trainable(abstract, kind), split_trainable(loaded, kind)
        assert split.graphdef == concrete.graphdef
        assert shapes(split[1:]) == shapes(concrete[1:])
    tagger = load_token_classifier(tmp_path / "saved", label_names=LABELS, key=key)
    tags = abstract_model(tmp_path / "saved", "token_classification", num_labels=3)
    assert shapes(split_trainable(tags, Trainable.head())[1:]) == shapes(
        split_trainable(tagger, Trainable.head())[1:]
    )


def test_no_weights_are_needed(tmp_path):
    folder = write_config(tmp_path / "shapes", "llama", hidden_size=8192, intermediate_size=28672)
    split = split_trainable(
        abstract_model(folder, "causal_lm", lora=LoraConfig(rank=4)), Trainable.lora()
    )
    assert "parameters trained" in split.describe_share()


def test_what_does_not_fit_is_refused(tmp_path):
    bert = write_config(tmp_path / "bert", "bert")
    with pytest.raises(ValueError, match="causal lm"):
        abstract_model(bert, "causal_lm")
    with pytest.raises(ValueError, match="num_labels must be at least 2 for a classifier, got No"):
        abstract_model(bert, "sequence_classification")
    llama = write_config(tmp_path / "llama", "llama")
    with pytest.raises(ValueError, match="num_labels is for classifiers, got 3"):
        abstract_model(llama, "causal_lm", num_labels=3)
    with pytest.raises(FileNotFoundError):
        abstract_model(tmp_path, "causal_lm")
