"""Finished runs of a tiny decoder, whose data files are gone."""

import json
import shutil

import pytest

import dpjax
from tests.finetuning.conftest import FORMATS, write_lines
from tests.finetuning.conftest import decoder as decoder


@pytest.fixture(scope="session")
def make_run(decoder, tmp_path_factory):
    """Function from a format to the folder of a finished run; its data files are deleted."""

    def make(record_format, **changes):
        folder = tmp_path_factory.mktemp(record_format)
        paths = {}
        for name, num in (("train", 60), ("eval", 20)):
            path = folder / f"{name}.jsonl"
            paths[f"{name}_data"] = write_lines(path, num, len(name), FORMATS[record_format])
        options = {
            "model": decoder,
            "task": "causal_lm",
            "tuning": "lora",
            "lora": {"rank": 2},
            "privacy": {"noise_multiplier": 2.0, "delta": 1e-4},
            "training": {
                "expected_batch_size": 16,
                "microbatch_size": 16,
                "num_steps": 2,
                "max_length": 24,
            },
            "generation": {"num_prompts": 0},
            "audit": {},
            "seed": 5,
        }
        dpjax.finetune(**options | paths | {"output_dir": folder / "run"} | changes)
        (folder / "kept").mkdir()
        for path in paths.values():
            path.rename(folder / "kept" / path.name)
        return folder / "run"

    return make


@pytest.fixture(scope="session")
def completions_run(make_run):
    return make_run("prompt_completion")


@pytest.fixture(scope="session")
def texts_run(make_run):
    return make_run("text")


@pytest.fixture(scope="session")
def train_file(completions_run):
    """The training file of completions_run, at another place than the run knows."""
    return completions_run.parent / "kept" / "train.jsonl"


@pytest.fixture
def changed_run(completions_run, tmp_path):
    """Function that copies the run with other values in one of its JSON files."""

    def make(name, **values):
        folder = tmp_path / "changed"
        shutil.copytree(completions_run, folder)
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(fields | values))
        return folder

    return make


@pytest.fixture
def options(tmp_path):
    """Of a few short records by value, into a folder of the test's own."""
    return {
        "num": 7,
        "by": "thing",
        "values": ("apple", "sky"),
        "prompt": "the {thing} is",
        "max_new_tokens": 6,
        "seed": 3,
        "batch_size": 4,
        "output_dir": tmp_path / "synthetic",
    }
