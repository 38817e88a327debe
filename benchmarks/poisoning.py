"""What poisoned messages achieve in the demo's classifier, with privacy and without.

    python -m benchmarks poisoning

The generated messages of `dpjax demo`. A head has the demo's recipe with longer steps, and features
of the embeddings beside those of the layers: the demo's own hardly learns one rare word. Adapters
learn it whole. Copies of messages are added that hold a trigger and the label of another desk.

The report stays in the folder; the same command goes on with an audit that was stopped. With the
defaults some hundred models are trained.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from benchmarks.recipes.demo import DEMO
from dpjax.audit import poisoning_markdown
from dpjax.finetuning import PoisonConfig, execute_poisoning


@dataclasses.dataclass(frozen=True)
class Options:
    """How many models are trained."""

    folder: Path = Path("runs/poisoning")
    epsilons: tuple[float, ...] = (8.0, 1.0)
    counts: tuple[int, ...] = (1, 4, 16, 64)
    triggers: tuple[Literal["rare_token", "sentence"], ...] = ("rare_token", "sentence")
    num_sets: int = 3
    num_clean_models: int = 10
    target: str = "billing"
    tuning: Literal["head", "lora"] = "head"
    """The demo's head on features that are computed once, or adapters in the uppermost layer."""


_LORA: dict[str, Any] = {
    "tuning": "lora",
    "features": {},
    "lora": {"rank": 8, "layers_to_transform": (5,)},
    "privacy": {"clip_norm": 1.0},
    "training": {
        "expected_batch_size": 256,
        "microbatch_size": 64,
        "num_steps": 160,
        "learning_rate": 3e-3,
        "max_length": 48,
    },
}


def make_config(options: Options) -> PoisonConfig:
    """Returns the audit of the demo's recipe."""
    recipe = copy.deepcopy(dict(DEMO.options))
    data: dict[str, Any] = DEMO.write_data(options.folder / "data", None)
    if options.tuning == "head":
        recipe["training"] |= {"num_steps": 1000, "learning_rate": 32.0}
        # 0 is the embeddings, in which a rare word is seen best.
        recipe["features"] |= {"layers": (0, 3, 4, 5, 6)}
    else:
        recipe |= _LORA
    first, *others = options.epsilons
    return PoisonConfig.from_options(
        recipe
        | data
        | {
            "output_dir": str(options.folder / "audit"),
            "resume": (options.folder / "audit").exists(),
            "privacy": recipe["privacy"] | {"target_epsilon": first},
            "poison": {
                "target": options.target,
                "triggers": options.triggers,
                "counts": options.counts,
                "num_sets": options.num_sets,
                "num_clean_models": options.num_clean_models,
                "epsilons": tuple(others),
            },
        }
    )


def main(options: Options) -> None:
    """Runs the audit and prints its tables."""
    console = Console()
    options.folder.mkdir(parents=True, exist_ok=True)
    result = execute_poisoning(make_config(options), console)
    console.print(poisoning_markdown(result.report), highlight=False, markup=False, soft_wrap=True)
