"""A tiny checkpoint and records, those of fine-tuning runs, with options of a federated run."""

import copy

import pytest

from tests.finetuning.conftest import eval_file as eval_file
from tests.finetuning.conftest import tiny_checkpoint as tiny_checkpoint
from tests.finetuning.conftest import train_file as train_file


@pytest.fixture(scope="session")
def cheap_options(tiny_checkpoint, train_file, eval_file):
    """Options of a run that is cheap to train and to account for, without the folder."""
    return {
        "model": tiny_checkpoint,
        "train_data": train_file,
        "eval_data": eval_file,
        "tuning": "head",
        "privacy": {"noise_multiplier": 4.0, "delta": 1e-4, "clip_norm": 0.5},
        "clients": {
            "num_clients": 40,
            "dirichlet_alpha": 0.5,
            "cohort_size": 8,
            "num_rounds": 4,
            "local_batch_size": 4,
            "records_per_client": 8,
            "clients_at_once": 4,
        },
        "training": {"max_length": 16},
        "seed": 5,
    }


@pytest.fixture
def options(cheap_options, tmp_path):
    return copy.deepcopy(cheap_options) | {"output_dir": tmp_path / "run"}
