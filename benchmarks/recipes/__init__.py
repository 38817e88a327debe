"""The recipes whose accuracy `python -m benchmarks utility` measures, by name."""

from __future__ import annotations

from benchmarks.recipes.demo import DEMO
from benchmarks.recipes.recipe import Recipe as Recipe
from benchmarks.recipes.smollm2 import E2E, SST2_WORDS
from benchmarks.recipes.sst2 import SST2_HEAD, SST2_LORA

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (DEMO, SST2_HEAD, SST2_LORA, SST2_WORDS, E2E)
}
