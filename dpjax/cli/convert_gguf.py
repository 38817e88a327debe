"""`dpjax convert-gguf`: a model of llama.cpp as a checkpoint folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Self

from rich.console import Console
from tyro.conf import Positional

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
