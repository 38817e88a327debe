"""`dpjax convert-gguf` and `dpjax merge-adapters`: folders of models made from others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Self

from rich.console import Console
from tyro.conf import Positional

from dpjax.basics.lora_config import Combination
from dpjax.cli.command import Refusal, refusing


@dataclasses.dataclass(frozen=True)
class ConvertGgufCommand:
    """Write the Llama in a GGUF file as a Hugging Face checkpoint folder."""

    file: Positional[Path]
    """The GGUF file."""
    out: Positional[Path]
    """New folder for the checkpoint."""

    def prepare(self) -> Self:
        """Returns itself: the file is read and checked when it runs, before anything is written."""
        return self

    def run(self, console: Console) -> int:
        """Converts the file and returns 0.

        Raises:
            OSError, Refusal: the file does not exist or cannot be converted, or the folder exists.
        """
        from dpjax.models import convert_gguf

        with refusing():
            try:
                convert_gguf(self.file, self.out)
            except ImportError as error:
                raise Refusal(str(error)) from error
        console.print(f"wrote {self.out}", highlight=False, markup=False, soft_wrap=True)
        return 0


@dataclasses.dataclass(frozen=True)
class MergeAdaptersCommand:
    """Write one adapter that adds to its base what several adapters of this base add."""

    adapters: Positional[tuple[Path, ...]]
    """Folders with adapters of one base, such as adapter/ of runs; they stay as they are."""
    weights: tuple[float, ...]
    """A number for each adapter. Choose them without looking at private records."""
    out: Path
    """New folder for the merged adapter."""
    combination: Combination = "svd"
    """svd: the best approximation of the weighted sum by the largest rank; cat: the sum exactly,
    with the sum of all ranks; linear: sums of A and of B by themselves, a rough approximation."""

    def prepare(self) -> Self:
        """Returns itself: everything is checked when it runs, before anything is written."""
        return self

    def run(self, console: Console) -> int:
        """Merges the adapters, prints what their privacy reports mean together, and returns 0.

        Raises:
            OSError, Refusal: an adapter or its report does not exist or fit, or the folder exists.
        """
        from dpjax.models import merge_adapters

        with refusing():
            statements = merge_adapters(
                self.adapters, self.weights, self.out, combination=self.combination
            )
        for line in (f"wrote {self.out}", *statements):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return 0
