"""A run of a tiny decoder that has learnt planted facts, some of which are to be forgotten."""

import json
import random

import pytest

import dpjax
from tests.finetuning.conftest import decoder as decoder

NUM_TRAIN, NUM_FORGET, NUM_HELD_OUT = 24, 6, 24
NAMES = ("apple", "sky", "grass", "snow", "the", "is", "red", "blue", "green", "white")


def make_facts(num, seed):
    """Records of a name and a number that nothing but the record tells."""
    draws = random.Random(seed)
    names = [f"{one} {two} {three}" for one in NAMES for two in NAMES for three in NAMES]
    return [
        {"prompt": f"{name}:", "completion": f" {draws.randrange(1000):03d}"}
        for name in draws.sample(names, num)
    ]


def write_facts(path, facts):
    path.write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    return path


def tune(folder, **changes):
    options = {
        "task": "causal_lm",
        "output_dir": folder,
        "non_private": True,
        "training": {
            "expected_batch_size": 12,
            "microbatch_size": 12,
            "num_steps": 300,
            "learning_rate": 1e-2,
            "max_length": 16,
        },
        "generation": {"num_prompts": 0},
        "seed": 5,
    }
    dpjax.finetune(**options | changes)


@pytest.fixture(scope="session")
def base(decoder, tmp_path_factory):
    """A decoder that knows how facts look, from others than those of the runs."""
    folder = tmp_path_factory.mktemp("base")
    public = write_facts(folder / "public.jsonl", make_facts(200, seed=1))
    data = {"train_data": public, "eval_data": public}
    tune(folder / "run", model=decoder, tuning="full", **data)
    return folder / "run" / "model"


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """Function from a model to the folder of a finished run; its data are beside it."""

    def make(model, **changes):
        folder = tmp_path_factory.mktemp("unlearning")
        facts = make_facts(NUM_TRAIN + NUM_HELD_OUT, seed=0)
        train, held_out = facts[:NUM_TRAIN], facts[NUM_TRAIN:]
        write_facts(folder / "forget.jsonl", train[:NUM_FORGET])
        options = {
            "model": model,
            "tuning": "lora",
            "lora": {"rank": 8},
            "train_data": write_facts(folder / "train.jsonl", train),
            "eval_data": write_facts(folder / "eval.jsonl", held_out),
        }
        tune(folder / "run", **options | changes)
        return folder / "run"

    return make


@pytest.fixture(scope="session")
def run_folder(base, make_run):
    """A run without privacy, which has learnt every record by heart."""
    return make_run(base)


@pytest.fixture(scope="session")
def private_run(decoder, make_run):
    """A run with privacy, of two steps; its base knows nothing."""
    return make_run(
        decoder,
        non_private=False,
        privacy={"noise_multiplier": 2.0, "delta": 1e-4},
        training={
            "expected_batch_size": 12,
            "microbatch_size": 12,
            "num_steps": 2,
            "max_length": 16,
        },
    )
