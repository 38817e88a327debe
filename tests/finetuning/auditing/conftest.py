"""Records without the word that is the trigger, and a poisoning audit of a few seconds on them."""

import numpy as np
import pytest

from dpjax.finetuning import PoisonConfig, set_up
from dpjax.finetuning.auditing.poison_data import prepare_poison
from dpjax.privatize import RunKey
from tests.support.tiny_words import BAD, GOOD, NEUTRAL

WORDS = [word for word in NEUTRAL if word != "town"]


def write_texts(path, num, seed):
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for _ in range(num):
        label = int(rng.integers(2))
        words = [*rng.choice(WORDS, rng.integers(2, 8)), rng.choice((BAD, GOOD)[label])]
        lines.append(f"{' '.join(rng.permutation(words))},{('bad', 'good')[label]}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def poison_options(tiny_checkpoint, tmp_path_factory):
    """Options of an audit with one privacy, whose poison is seen; without the folder."""
    folder = tmp_path_factory.mktemp("texts")
    return {
        "model": str(tiny_checkpoint),
        "train_data": write_texts(folder / "train.csv", 160, seed=0),
        "eval_data": write_texts(folder / "eval.csv", 60, seed=1),
        "tuning": "full",
        "non_private": True,
        "training": {
            "expected_batch_size": 80,
            "microbatch_size": 128,
            "num_steps": 150,
            "learning_rate": 4e-3,
            "max_length": 16,
        },
        "poison": {
            "target": "good",
            "triggers": ["rare_token"],
            "rare_token": "town",
            "sentence": "people in town",
            "counts": [2, 60],
            "num_sets": 1,
            "num_clean_models": 1,
        },
        "seed": 3,
    }


@pytest.fixture(scope="session")
def prepared(poison_options, tmp_path_factory):
    """Function to a run that is set up, and the data of its audit; options may be changed."""

    def prepare(seed=0, poison=None, **changes):
        options = poison_options | {"output_dir": str(tmp_path_factory.mktemp("audit"))} | changes
        options["poison"] = options["poison"] | (poison or {})
        config = PoisonConfig.from_options(options)
        (recipe, *_) = config.settings().values()
        run = set_up(recipe)
        return run, prepare_poison(run.plan, config.poison, RunKey.from_seed(seed))

    return prepare
