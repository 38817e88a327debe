"""Labels of new texts, by a finished run that puts each into a template."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from dpjax.data import Records, by_length, microbatches, trim_padding
from dpjax.finetuning.config import FinetuneConfig
from dpjax.finetuning.files.run_directory import RunDirectory
from dpjax.finetuning.tasks.classification import SequenceClassification
from dpjax.finetuning.tasks.label_words import LabelWordClassification
from dpjax.finetuning.tasks.templated import TemplatedClassification
from dpjax.models import (
    Loading,
    Model,
    Trainable,
    load_classifier,
    load_tokenizer,
    read_config,
    split_trainable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def classify(run: str | Path, texts: Sequence[str]) -> list[str]:
    r"""Returns the label of each text, as a run with `head.template` has learnt it.

    Args:
        run: the folder of the finished run.
        texts: N of them, as in its training data, without the template.

    Raises:
        FileNotFoundError: the folder has no config.json or no model.
        ValueError: the run made a classifier of its own; `load_classifier` loads that.

    Example:
        >>> import dpjax
        >>> from flax import nnx
        >>> from transformers import BertConfig, BertTokenizer
        >>> from dpjax.models import MaskedLM, save_model
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "fine", "dull"]
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> BertConfig(vocab_size=9, hidden_size=8, **sizes).save_pretrained("base")
        >>> BertTokenizer(dict(zip(words, range(9)))).save_pretrained("base")[:0]
        ()
        >>> save_model(MaskedLM(read_config("base"), rngs=nnx.Rngs(0)), "lm", source="base")
        >>> rows = "a fine film,1\na dull film,0\n" * 9
        >>> _ = Path("films.csv").write_text("text,label\n" + rows)
        >>> result = dpjax.finetune(  # doctest: +ELLIPSIS
        ...     model="lm",
        ...     train_data="films.csv",
        ...     eval_data="films.csv",
        ...     output_dir="words",
        ...     head={"template": "{text} {mask}", "label_words": ("1=fine", "0=dull")},
        ...     training={"num_steps": 1, "expected_batch_size": 4, "max_length": 8},
        ...     privacy={"target_epsilon": 3.0},
        ... )
        18 training records, ...
        >>> len(classify("words", ["a film", "a dull film"]))
        2
    """
    directory = RunDirectory(Path(run))
    config = FinetuneConfig.from_options(json.loads(directory.config.read_bytes()))
    if config.head.template is None:
        raise ValueError(
            f"{run} was not started with head.template: load_classifier loads its classifier"
        )
    # Of no tokenizer that reads a template a padding token is asked; encoders all have one.
    tokenizer = load_tokenizer(directory.model, needs_padding=False)
    loading = config.compute.loading()
    if config.head.reads_language_head:
        task, model = _by_words(directory.model, config, tokenizer, loading)
    else:
        task, model = _by_classifier(directory.model, config, loading)
    split = split_trainable(model, Trainable.full())
    # Labels are asked for, and records must have some.
    records = Records(list(texts), [task.labels[0]] * len(texts))
    data = task.encode(records, tokenizer, config.training.max_length)
    measure = task.measure_fn(split.graphdef)
    chosen = np.empty(len(data), np.int32)
    size = min(task.evaluation_batch_size, len(data))
    for rows, mask in microbatches(by_length(data, np.arange(len(data))), size) if size else ():
        batch = task.batch(trim_padding(data.take(rows)))
        _, labels = measure(split.trainable, split.frozen, batch)
        chosen[rows[mask]] = np.asarray(labels)[mask]
    return [task.labels[label] for label in chosen]


def _by_words(
    checkpoint: Path,
    config: FinetuneConfig,
    tokenizer: PreTrainedTokenizerBase,
    loading: Loading,
) -> tuple[SequenceClassification, Model]:
    made = LabelWordClassification.from_config(config, datetime.datetime.now())
    made = made.with_labels(tuple(config.head.words()))
    task = made.with_tokenizer(read_config(checkpoint), tokenizer)
    return task, task.load_language_model(checkpoint, loading)


def _by_classifier(
    checkpoint: Path, config: FinetuneConfig, loading: Loading
) -> tuple[SequenceClassification, Model]:
    named = json.loads((checkpoint / "config.json").read_bytes())["id2label"]
    labels = tuple(named[str(row)] for row in range(len(named)))
    made = TemplatedClassification.from_config(config, datetime.datetime.now())
    # The head is that of the checkpoint: no number is drawn from the key.
    key = jax.random.key(0)
    model = load_classifier(checkpoint, label_names=labels, key=key, loading=loading)
    return dataclasses.replace(made, labels=labels), model
