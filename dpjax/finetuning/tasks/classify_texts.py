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
from dpjax.finetuning.files.run_directory import RunDirectory, RunState
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
        FileNotFoundError: there is no such folder, or a file of it is missing.
        TypeError: the texts are one string, or no strings.
        ValueError: it is no finished run with `head.template`, or a file of it is damaged.

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
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        kinds = sorted({type(text).__name__ for text in texts})
        found = "one string" if isinstance(texts, str) else f"one of {', '.join(kinds)}"
        raise TypeError(f"texts must be a list of strings, got {found}")
    directory = RunDirectory(run)
    config = _config_of(directory)
    # Of no tokenizer that reads a template a padding token is asked; encoders all have one.
    tokenizer = load_tokenizer(directory.model, needs_padding=False)
    # A fused kernel is of the machine that trained. What was tuned is rounded no second time.
    loading = dataclasses.replace(config.compute.loading(), attention="einsum", quantise="none")
    if config.reads_language_head:
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


def _config_of(directory: RunDirectory) -> FinetuneConfig:
    """The options of a finished run with a template."""
    if not directory.path.is_dir():
        raise FileNotFoundError(
            f"no run {directory.path}: it must be the folder that dpjax finetune wrote"
        )
    state = directory.state()
    if state not in (RunState.FINISHED, RunState.MEASURED):
        raise ValueError(
            f"{directory.path} must be a finished run of dpjax finetune, but holds {state.value}"
        )
    try:
        config = FinetuneConfig.from_run(json.loads(directory.config.read_bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(f"{directory.config} is missing: put a copy of it back") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{directory.config} is damaged ({error}): put a copy of it back"
        ) from error
    if config.head.template is None:
        load = {"causal_lm": "load_causal_lm", "token_classification": "load_token_classifier"}
        raise ValueError(
            f"{directory.path} must be a run with head.template, got one without: "
            f"dpjax.models.{load.get(config.task, 'load_classifier')} loads its model"
        )
    return config
