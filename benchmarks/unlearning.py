"""What a tiny decoder still knows of planted facts after it was made to forget them.

    python -m benchmarks unlearning

A GPT-2 of two layers is trained on public facts, a name and a number each, and then tuned by LoRA
on 24 others without privacy, until it knows them by heart. 6 of them are to be forgotten. Each
method has its own number of passes, chosen by hand; grad_ascent goes on too long on purpose. The
table compares each with a model that was tuned without the 6.

Leaves the runs, the report of each method, and a JSON file.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

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
_NUM_EPOCHS = {"npo": 6, "simnpo": 20, "undial": 20, "grad_diff": 6, "grad_ascent": 20}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is tuned and forgotten."""

    folder: Path = Path("runs/unlearning")
    num_steps: int = 300
    learning_rate: float = 3e-3
    """Of unlearning."""
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


def row_of(name: str, numbers: dict[str, Any], **others: Any) -> dict[str, Any]:
    """One row of the table."""
    return {
        "model": name,
        **{f"{part}_loss": numbers[part]["loss"] for part in ("forget", "retain", "held_out")},
        "forget_memorised": numbers["forget"]["exact_memorisation"],
        "relearnt_loss": numbers["relearnt_loss"],
        **others,
    }


def main(options: Options) -> None:
    """Tunes, unlearns by each method, and prints a table."""
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=False)
    public = write_facts(folder / "public.jsonl", make_facts(200, seed=1))
    facts = make_facts(_NUM_TRAIN + _NUM_HELD_OUT, seed=0)
    train = write_facts(folder / "train.jsonl", facts[:_NUM_TRAIN])
    held_out = write_facts(folder / "held_out.jsonl", facts[_NUM_TRAIN:])
    forget = write_facts(folder / "forget.jsonl", facts[:_NUM_FORGET])
    data = {"train_data": public, "eval_data": public}
    tune(options, folder / "base", model=write_decoder(folder), tuning="full", **data)
    data = {"train_data": train, "eval_data": held_out}
    tune(
        options,
        folder / "run",
        model=folder / "base" / "model",
        tuning="lora",
        lora={"rank": 8},
        **data,
    )
    rows: list[dict[str, Any]] = []
    for method, num_epochs in _NUM_EPOCHS.items():
        result = unlearn(
            folder / "run",
            forget=forget,
            output_dir=folder / method,
            method=method,
            num_epochs=float(num_epochs),
            batch_size=_NUM_FORGET,
            learning_rate=options.learning_rate,
        )
        models, verdict = result.report["models"], result.report["verdict"]
        if not rows:
            rows.append(row_of("original", models["original"]))
            rows.append(row_of("retrained", models["retrained"], auc=verdict["retrained_auc"]))
        flags = [name for name in ("over_unlearned", "under_unlearned") if verdict[name]]
        rows.append(row_of(method, models["unlearned"], auc=verdict["auc"], flags=flags))
    write_results(options.output, options, rows, keys=("model",))
    Console().print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = [name for name in rows[-1] if name != "flags"]
    table = Table(*[name.removesuffix("_loss") for name in columns], "flags")
    for row in rows:
        values = [row.get(name) for name in columns]
        cells = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values]
        flags = " ".join(row.get("flags", ())).replace("_", "-")
        table.add_row(*["" if cell == "None" else cell for cell in cells], flags)
    return table
