"""What a recipe is: records that anyone can have, and the options of a run on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpjax.finetuning import FinetuneConfig, FinetuneResult

Measure = Callable[[FinetuneResult], Mapping[str, float]]


def accuracy(result: FinetuneResult) -> dict[str, float]:
    """Returns the share of held-out records whose label is predicted."""
    assert result.eval_accuracy is not None
    return {"accuracy": result.eval_accuracy}


def folder_of(given: Path | None, name: str, files: Sequence[str], what: str) -> Path:
    """Returns the folder of a data set, which must hold some files.

    Args:
        given: the folder of all data sets; None for `data`.
        name: of the data set's own folder in there.
        files: that it must hold.
        what: the data set in words, for the error.

    Raises:
        FileNotFoundError: one of them is missing.
    """
    folder = (Path("data") if given is None else given) / name
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: put {what} there, or name another folder of "
            "data sets with --data"
        )
    return folder


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is tuned on one data set, the same with privacy and without.

    Attributes:
        name: what it is asked for by.
        about: what is tuned on what, a phrase.
        write_data: writes or links the files of the records into a folder, from the folder of
            `--data`; it returns the options that name them, and the model.
        options: all other options of the run, nested; without a target.
        measure: what of a result is compared.
    """

    name: str
    about: str
    write_data: Callable[[Path, Path | None], dict[str, Any]]
    options: Mapping[str, Any]
    measure: Measure = accuracy

    def config(
        self, data: Mapping[str, Any], output: Path, epsilon: float | None, **changes: Any
    ) -> FinetuneConfig:
        """Returns the options of one run.

        Args:
            data: what `write_data` returned.
            output: the folder of the run.
            epsilon: its target; None without privacy.
            changes: of the group `training`, for runs that are shorter.
        """
        options: dict[str, Any] = {**self.options, **data, "output_dir": str(output)}
        options["training"] = {**options.get("training", {}), **changes}
        privacy = options.pop("privacy", {})
        if epsilon is None:
            # Of the promise only how batches are drawn stays.
            privacy = {"sampling": privacy.get("sampling", "poisson")}
            options["non_private"] = True
        else:
            privacy = {**privacy, "target_epsilon": epsilon}
        options["privacy"] = privacy
        return FinetuneConfig.from_options(options)
