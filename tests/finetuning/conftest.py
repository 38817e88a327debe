"""A tiny checkpoint with its tokenizer, and a small labelled data set, made on the spot."""

import copy
import json
import random
import shutil
import signal

import numpy as np
import pytest
from flax import nnx

import dpjax
from dpjax.finetuning.training import loop
from dpjax.training import RunInterrupted
from tests.support.tiny_words import BAD, GOOD, NEUTRAL

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
    save_model(model, folder, source=source, label_names=("x", "y", "z"))
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
def cheap_options(base_options):
    """Those of a run that is cheap to train and to account for, without the folder."""
    changes = {
        "privacy": {"noise_multiplier": 4.0, "delta": 1e-5, "clip_norm": 0.5},
        "training": base_options["training"] | {"num_steps": 4},
        "tuning": "head",
        "num_layers": 1,
    }
    return copy.deepcopy(base_options) | changes


@pytest.fixture(scope="session")
def whole(cheap_options, tmp_path_factory):
    """The result of the cheap run, left alone from start to end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return dpjax.finetune(**copy.deepcopy(cheap_options), output_dir=folder)


@pytest.fixture(scope="session")
def interrupted(cheap_options, stop_after, tmp_path_factory):
    """The folder of the cheap run, stopped after two steps; tests copy it."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    stop_after(2, **copy.deepcopy(cheap_options), output_dir=folder)
    return folder


@pytest.fixture(scope="session")
def stop_after():
    """Function that runs until a signal comes in a step, and returns what is raised."""

    def run(step, number=signal.SIGINT, **options):
        update = loop.TrainingProgress.update

        def stop(self, done, *arguments):
            update(self, done, *arguments)
            if done == step:
                signal.raise_signal(number)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(RunInterrupted) as stopped:
            patch.setattr(loop.TrainingProgress, "update", stop)
            dpjax.finetune(**options)
        return stopped.value

    return run


@pytest.fixture(scope="session")
def finished(base_options, tmp_path_factory):
    """The result of a run with these options, which many tests read and none changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return dpjax.finetune(**copy.deepcopy(base_options), output_dir=folder)


COLOURS = {"apple": "red", "sky": "blue", "grass": "green", "snow": "white"}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}U:{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
TINY_GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 48,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """A random GPT-2 with a byte-level tokenizer that has no padding token, as a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from dpjax.models import CausalLM, parse_config, save_model

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"the {thing} is {colour}" for thing, colour in COLOURS.items()] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    source = tmp_path_factory.mktemp("decoder")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(source)
    raw = TINY_GPT2 | {"vocab_size": len(fast), "eos_token_id": 0, "bos_token_id": 0}
    (source / "config.json").write_text(json.dumps(raw))
    model = CausalLM(parse_config(raw), rngs=nnx.Rngs(0))
    folder = tmp_path_factory.mktemp("decoder") / "checkpoint"
    save_model(model, folder, source=source)
    return folder


def write_lines(path, num, seed, make):
    things = random.Random(seed).choices(list(COLOURS), k=num)
    path.write_text("".join(json.dumps(make(thing, COLOURS[thing])) + "\n" for thing in things))
    return path


FORMATS = {
    "text": lambda thing, colour: {"text": f"the {thing} is {colour}"},
    "prompt_completion": lambda thing, colour: {
        "prompt": f"the {thing} is",
        "completion": f" {colour}",
    },
    "messages": lambda thing, colour: {
        "messages": [
            {"role": "user", "content": f"the {thing}?"},
            {"role": "assistant", "content": colour},
        ]
    },
}


@pytest.fixture
def language_options(decoder, tmp_path):
    """Function from a format to the options of a run of a few seconds."""

    def make(record_format, **changes):
        make_record = FORMATS[record_format]
        options = {
            "model": decoder,
            "task": "causal_lm",
            "train_data": write_lines(tmp_path / "train.jsonl", 200, 0, make_record),
            "eval_data": write_lines(tmp_path / "eval.jsonl", 40, 1, make_record),
            "output_dir": tmp_path / "run",
            "tuning": "full",
            "privacy": {"noise_multiplier": 0.5, "clip_norm": 1.0},
            "training": {
                "expected_batch_size": 64,
                "microbatch_size": 32,
                "num_steps": 30,
                "learning_rate": 1e-2,
                "max_length": 24,
            },
            "generation": {"num_prompts": 4, "max_new_tokens": 8},
            "seed": 5,
        }
        return options | changes

    return make


@pytest.fixture
def stopped(cheap_options, interrupted, tmp_path):
    """Options of a run that was interrupted after two steps, in a copy of its folder."""
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    return cheap_options | {"output_dir": folder, "resume": True}
