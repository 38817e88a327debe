"""What a tiny decoder still knows of planted facts after it was made to forget them.

    python -m benchmarks unlearning
    python -m benchmarks unlearning --search

A GPT-2 of two layers is trained on public facts, a name and a number each, and then tuned by LoRA
on 24 others without privacy, until it knows them by heart. 6 of them are to be forgotten. The table
compares each method with a model that was tuned without the 6, for each set of facts.

With --search all settings of each method are tried on a set of facts that the table is not of.

Leaves the runs, the report of each method, and a JSON file.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table

import dpjax
from benchmarks.results_file import write_results
from dpjax.models import CausalLM, parse_config, save_model
from dpjax.unlearning import unlearn

_NAMES = ("apple", "sky", "grass", "snow", "the", "is", "red", "blue", "green", "white")
_SIZES = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 48, "initializer_range": 0.1}
_NUM_TRAIN, _NUM_FORGET, _NUM_HELD_OUT = 24, 6, 24
_SEARCHED_FACTS = 0

# What --search tries: each method has three values of what bounds its forgetting, two weights of
# what is retained, and two numbers of passes.
_TRIED = {
    "npo": ("beta", (0.1, 0.5, 1.0)),
    "simnpo": ("beta", (1.0, 2.5, 5.0)),
    "undial": ("strength", (3.0, 10.0, 30.0)),
    # It has no bound: what is left is to go slowly.
    "grad_diff": ("learning_rate", (3e-4, 1e-3, 3e-3)),
}
_WEIGHTS = (1.0, 5.0)
_PASSES = (20.0, 60.0)

# Those of the smallest distance to the retrained model, as --search printed them.
_CHOSEN: dict[str, dict[str, float]] = {
    "npo": {"beta": 1.0, "retain_weight": 1.0, "num_epochs": 60.0},
    "simnpo": {"beta": 2.5, "retain_weight": 1.0, "num_epochs": 60.0},
    "undial": {"strength": 30.0, "retain_weight": 5.0, "num_epochs": 60.0},
    "grad_diff": {"learning_rate": 3e-3, "retain_weight": 5.0, "num_epochs": 20.0},
    # Too long on purpose: it must be flagged.
    "grad_ascent": {"num_epochs": 20.0},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is tuned and forgotten."""

    folder: Path = Path("runs/unlearning")
    num_steps: int = 300
    learning_rate: float = 3e-3
    """Of unlearning, where a method has no other."""
    fact_seeds: tuple[int, ...] = (3, 4)
    """Each makes a set of facts. 0 is that of the search, and 1 that of the public facts."""
    search: bool = False
    """Try settings on other facts, and write them beside the output."""
    output: Path = Path("benchmarks/results/unlearning.json")


def write_decoder(folder: Path) -> Path:
    """Writes a GPT-2 with random weights and a tokenizer of bytes; returns its folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([" ".join(_NAMES)] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    source = folder / "source"
    fast.save_pretrained(source)
    raw = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **_SIZES}
    raw |= {"vocab_size": len(fast), "eos_token_id": 0, "bos_token_id": 0}
    (source / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    model = CausalLM(parse_config(raw), rngs=nnx.Rngs(0))
    save_model(model, folder / "decoder", source=source)
    return folder / "decoder"


def write_facts(path: Path, facts: list[dict[str, str]]) -> Path:
    """Writes facts as records; returns the path."""
    path.write_text("".join(json.dumps(fact) + "\n" for fact in facts), encoding="utf-8")
    return path


def make_facts(number: int, seed: int) -> list[dict[str, str]]:
    """Makes records of a name and a number that nothing but the record tells."""
    draws = random.Random(seed)
    names = [f"{one} {two} {three}" for one in _NAMES for two in _NAMES for three in _NAMES]
    return [
        {"prompt": f"{name}:", "completion": f" {draws.randrange(1000):03d}"}
        for name in draws.sample(names, number)
    ]


def tune(options: Options, folder: Path, **changes: Any) -> None:
    """Tunes a decoder without privacy."""
    recipe = {
        "expected_batch_size": 12,
        "microbatch_size": 12,
        "num_steps": options.num_steps,
        "learning_rate": 1e-2,
        "max_length": 16,
    }
    dpjax.finetune(
        task="causal_lm",
        output_dir=folder,
        non_private=True,
        training=recipe,
        generation={"num_prompts": 0},
        seed=5,
        **changes,
    )


@dataclasses.dataclass(frozen=True)
class Facts:
    """A set of facts, and a run that knows them by heart.

    Attributes:
        seed: that made them.
        folder: of the run and of what is unlearned from it.
    """

    seed: int
    folder: Path

    def unlearn(self, method: str, options: Options, name: str, **settings: Any) -> dict[str, Any]:
        """Returns the report of one unlearning."""
        recipe = {"learning_rate": options.learning_rate} | settings
        result = unlearn(
            self.folder / "run",
            forget=self.folder / "forget.jsonl",
            output_dir=self.folder / name,
            method=method,
            batch_size=_NUM_FORGET,
            **recipe,
        )
        return result.report


def learn_facts(options: Options, seed: int) -> Facts:
    """Makes a set of facts, and tunes adapters until the decoder knows them."""
    folder = options.folder / f"facts_{seed}"
    folder.mkdir()
    facts = make_facts(_NUM_TRAIN + _NUM_HELD_OUT, seed=seed)
    write_facts(folder / "forget.jsonl", facts[:_NUM_FORGET])
    tune(
        options,
        folder / "run",
        model=options.folder / "base" / "model",
        tuning="lora",
        lora={"rank": 8},
        train_data=write_facts(folder / "train.jsonl", facts[:_NUM_TRAIN]),
        eval_data=write_facts(folder / "held_out.jsonl", facts[_NUM_TRAIN:]),
    )
    return Facts(seed, folder)


def main(options: Options) -> None:
    """Tunes, unlearns by each method, and prints a table."""
    options.folder.mkdir(parents=True, exist_ok=False)
    # The same programs are compiled for each method and each set of facts.
    jax.config.update("jax_compilation_cache_dir", str(options.folder.resolve() / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    public = write_facts(options.folder / "public.jsonl", make_facts(200, seed=1))
    data = {"train_data": public, "eval_data": public}
    decoder = write_decoder(options.folder)
    tune(options, options.folder / "base", model=decoder, tuning="full", **data)
    output = options.output
    if options.search:
        rows = _search(options)
        output = output.with_stem(f"{output.stem}_search")
        write_results(output, options, rows, keys=("model", "settings"))
    else:
        rows = [row for seed in options.fact_seeds for row in _compare(options, seed)]
        write_results(output, options, rows, keys=("facts", "model"))
    Console(width=140).print(_table(rows))


def _compare(options: Options, seed: int) -> list[dict[str, Any]]:
    """Rows of each method with the settings that were chosen, after those of the controls."""
    facts = learn_facts(options, seed)
    rows: list[dict[str, Any]] = []
    for method, settings in _CHOSEN.items():
        report = facts.unlearn(method, options, method, **settings)
        if not rows:
            rows += [
                _row(facts, name, report["models"][name], report["controls"][name])
                for name in ("original", "retrained")
            ]
        rows.append(_row(facts, method, report["models"]["unlearned"], report["verdict"]))
    return rows


def _search(options: Options) -> list[dict[str, Any]]:
    """Rows of all settings that are tried, those of a method by distance."""
    facts = learn_facts(options, _SEARCHED_FACTS)
    rows = []
    for method, (name, values) in _TRIED.items():
        of_method = []
        for value, weight, passes in itertools.product(values, _WEIGHTS, _PASSES):
            settings = {name: value, "retain_weight": weight, "num_epochs": passes}
            text = f"{name} {value:g}, weight {weight:g}, {passes:g} passes"
            report = facts.unlearn(method, options, f"{method}, {text}", **settings)
            unlearned, retrained = (report["models"][each] for each in ("unlearned", "retrained"))
            row = _row(facts, method, unlearned, report["verdict"])
            row |= {"settings": text, "distance": _distance(unlearned, retrained)}
            of_method.append(row)
        rows += sorted(of_method, key=lambda row: row["distance"])
    return rows


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Sum over the forget set and retained records of how far the losses are apart, in nats."""
    return sum(abs(one[part]["loss"] - other[part]["loss"]) for part in ("forget", "retain"))


def _row(
    facts: Facts, name: str, numbers: dict[str, Any], verdict: dict[str, Any]
) -> dict[str, Any]:
    return {
        "facts": facts.seed,
        "model": name,
        **{f"{part}_loss": numbers[part]["loss"] for part in ("forget", "retain", "held_out")},
        "forget_memorised": numbers["forget"]["exact_memorisation"],
        "relearnt_loss": numbers["relearnt_loss"],
        "auc": verdict["auc"],
        "flags": [name for name in ("over_unlearned", "under_unlearned") if verdict[name]],
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = [name for name in rows[0] if name != "flags"]
    table = Table(
        *[name.removesuffix("_loss").removeprefix("forget_") for name in columns], "flags"
    )
    for row in rows:
        values = [row[name] for name in columns]
        cells = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(*cells, " ".join(flag.removesuffix("_unlearned") for flag in row["flags"]))
    return table
