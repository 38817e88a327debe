"""A tiny checkpoint with its tokenizer, and a small labelled data set, made on the spot."""

import copy
import json

import numpy as np
import pytest
from flax import nnx

import dpjax

GOOD = ("fine", "lovely", "bright", "warm")
BAD = ("dull", "awful", "cold", "grim")
NEUTRAL = ("the", "film", "was", "and", "a", "story", "of", "people", "in", "town")

TINY_BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A random two-layer BERT as a Hugging Face folder."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    from dpjax.models import SequenceClassifier, read_config, save_model

    source = tmp_path_factory.mktemp("source")
    (source / "config.json").write_text(json.dumps(TINY_BERT))
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *NEUTRAL)
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(source)
    model = SequenceClassifier(read_config(source), num_labels=3, rngs=nnx.Rngs(0))
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    save_model(model, source, folder, label_names=("x", "y", "z"))
    return folder


def write_records(path, num, seed):
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for _ in range(num):
        label = int(rng.integers(2))
        words = list(rng.choice(NEUTRAL, rng.integers(2, 12)))
        words.insert(int(rng.integers(len(words))), str(rng.choice((BAD, GOOD)[label])))
        lines.append(f"{' '.join(words)},{('bad', 'good')[label]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def train_file(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("data") / "train.csv", 240, seed=0)


@pytest.fixture(scope="session")
def eval_file(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("data") / "eval.csv", 80, seed=1)


@pytest.fixture(scope="session")
def base_options(tiny_checkpoint, train_file, eval_file):
    """Options of a run of a few seconds, without the folder that it writes."""
    return {
        "model": tiny_checkpoint,
        "train_data": train_file,
        "eval_data": eval_file,
        "privacy": {"target_epsilon": 4.0, "clip_norm": 0.5},
        "training": {
            "expected_batch_size": 40,
            "microbatch_size": 16,
            "num_steps": 6,
            "learning_rate": 1e-2,
            "max_length": 16,
        },
        "seed": 5,
    }


@pytest.fixture
def options(base_options, tmp_path):
    """Those of a run of a test's own; tests override what they are about."""
    return copy.deepcopy(base_options) | {"output_dir": tmp_path / "run"}


@pytest.fixture(scope="session")
def finished(base_options, tmp_path_factory):
    """The result of a run with these options, which many tests read and none changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return dpjax.finetune(**copy.deepcopy(base_options), output_dir=folder)
