"""A tuned model as a folder that transformers opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import nnx

from dpjax.models.encoder import SequenceClassifier
from dpjax.models.families import AVERAGING_LAYER, family_of
from dpjax.models.files import CONFIG, TOKENIZER_FILES, WEIGHTS, read_config_json
from dpjax.models.labels import check_label_names
from dpjax.models.lora import merge_lora


def save_classifier(
    model: SequenceClassifier,
    source_folder: str | Path,
    out_folder: str | Path,
    *,
    label_names: Sequence[str],
) -> None:
    """Write config.json, model.safetensors (float32, adapters merged) and the tokenizer.

    transformers' AutoModelForSequenceClassification.from_pretrained(out_folder) gives equal logits.
    The given model keeps its adapters.

    Args:
        source_folder: the checkpoint the model was loaded from: its config.json is carried over
            with the labels and the architecture replaced, its tokenizer files are copied.
        label_names: the labels in the order of the logits.

    Raises:
        ValueError: if the number of labels is not the model's, or both folders are the same.
    """
    source, out = Path(source_folder), Path(out_folder)
    check_label_names(label_names)
    if len(label_names) != model.num_labels:
        raise ValueError(f"the model has {model.num_labels} labels, got {len(label_names)} names")
    if source.resolve() == out.resolve():
        raise ValueError(f"{out} is the folder of the original checkpoint; save to another one")
    out.mkdir(parents=True, exist_ok=True)
    _write_config(model, source, out, label_names)
    _write_weights(model, out / WEIGHTS)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _write_config(
    model: SequenceClassifier, source: Path, out: Path, label_names: Sequence[str]
) -> None:
    config = read_config_json(source)
    # "torch_dtype" is the old spelling of "dtype"; the others would describe an earlier task.
    for name in ("torch_dtype", "num_labels", "_num_labels", "problem_type"):
        config.pop(name, None)
    config |= {
        "architectures": [family_of(model.config.model_type).architecture],
        "id2label": {str(row): name for row, name in enumerate(label_names)},
        "label2id": {name: row for row, name in enumerate(label_names)},
        "num_hidden_layers": model.config.num_layers,
        "dtype": "float32",
    }
    if model.config.averaging_layer:
        config[AVERAGING_LAYER] = True
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (out / CONFIG).write_text(text, encoding="utf-8")


def _write_weights(model: SequenceClassifier, path: Path) -> None:
    from safetensors.numpy import save_file

    graphdef, state = nnx.split(model)
    # Merging a dict of plain arrays makes new variables: the given model keeps its adapters.
    plain = nnx.merge(graphdef, nnx.to_pure_dict(state))
    merge_lora(plain)
    parameters = nnx.to_pure_dict(nnx.split(plain)[1])
    tensors = {}
    for weight in family_of(model.config.model_type).weight_names(model.config):
        value = parameters
        for part in weight.path:
            value = value[part]
        array = np.asarray(value)
        tensors[weight.hf_name] = np.ascontiguousarray(array.T if weight.transposed else array)
    save_file(tensors, path, metadata={"format": "pt"})
