"""Adapters of several runs on one base, merged into one folder."""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from dpjax_accounting import finish_folder

from dpjax.basics.lora_config import Combination
from dpjax.basics.option_checks import check_choice
from dpjax.models.adapters.files.adapter_config import QUANTISE
from dpjax.models.adapters.files.layout import ADAPTER_WEIGHTS, PREFIX
from dpjax.models.adapters.files.merging.combinations import combine
from dpjax.models.adapters.files.merging.privacy import (
    PRIVACY_OF_MERGE,
    reports_of,
    state_privacy,
)
from dpjax.models.adapters.files.merging.stored_adapter import (
    StoredAdapter,
    check_fit,
    open_stored_adapter,
)
from dpjax.models.checkpoint.files import ADAPTER_CONFIG

_log = logging.getLogger(__name__)


def merge_adapters(
    folders: Sequence[str | Path],
    weights: Sequence[float],
    out: str | Path,
    *,
    combination: Combination = "svd",
) -> tuple[str, ...]:
    """Writes one adapter that adds to the base what several adapters add, each times its weight.

    The base is not needed. `svd` and `cat` add the changes of each weight, Σ w · scaling · B A:
    `cat` exactly, with the sum of all ranks, and `svd` as well as the largest rank can. `linear`
    sums A and B by themselves, a rough approximation. So does `add_weighted_adapter` of peft; but
    where the first adapter has `use_rslora`, peft multiplies the result by √rank once more.

    Merging is post-processing: it spends no ε. Where an adapter has a privacy report, in its folder
    or in the run folder that it is the adapter/ of, the new folder gets `privacy_of_merge.json`:
    the reports, and what they mean together. The reports are verified first, which takes seconds.

    Args:
        folders: with adapters on one base, in the layout of peft.
        weights: a number for each adapter; negative ones take away. Choose them without looking at
            private records.
        out: the folder to write, which does not exist yet. It appears whole or not at all.
        combination: svd, cat or linear.

    Returns:
        What the reports mean together, in sentences; none if no adapter has a report.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: the folder that `out` is to be in, or a file of an adapter, is missing.
        ValueError: another number of weights than of adapters, adapters that do not belong to one
            base, that are no plain sums (DoRA, rows of tokens), or that differ in what was trained
            in full; unequal ranks with `linear`; a report that does not hold.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import CausalLM, LoraConfig, add_lora, read_config, save_adapter
        >>> for seed in (0, 1):
        ...     model = CausalLM(read_config("base"), rngs=nnx.Rngs(0))
        ...     add_lora(model, LoraConfig(rank=2), key=jax.random.key(seed))
        ...     save_adapter(model, f"adapter{seed}", base="base")
        >>> merge_adapters(["adapter0", "adapter1"], [0.5, 0.5], "merged", combination="cat")
        ()
        >>> json.loads(Path("merged/adapter_config.json").read_text())["r"]
        4
    """
    out = Path(out)
    check_choice("combination", combination, get_args(Combination))
    _check_weights(folders, weights)
    if out.exists():
        raise FileExistsError(f"{out} exists. Give a new folder.")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out.absolute().parent} does not exist. Make this folder first.")
    adapters = [open_stored_adapter(Path(folder)) for folder in folders]
    for other in adapters[1:]:
        check_fit(adapters[0], other)
    rank = _merged_rank(adapters, combination)
    statement = state_privacy([reports_of(Path(folder)) for folder in folders])
    tensors = _merged_tensors(adapters, weights, combination, rank)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.absolute().parent))
    try:
        partial.chmod(0o755)
        _write(partial, tensors, _merged_config(adapters, rank))
        if statement is not None:
            how = {"combination": combination, "weights": list(weights)}
            _write_json(partial / PRIVACY_OF_MERGE, statement | how)
        finish_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return () if statement is None else tuple(statement["statements"])


def _check_weights(folders: Sequence[str | Path], weights: Sequence[float]) -> None:
    if isinstance(folders, (str, Path)):
        raise TypeError(f"folders must be a list of folders, got {folders!r}: write [{folders!r}]")
    if not folders or len(weights) != len(folders):
        raise ValueError(
            f"weights must be one number for each adapter, got {len(weights)} weights and "
            f"{len(folders)} adapters"
        )
    for weight in weights:
        if not math.isfinite(weight):
            raise ValueError(f"weights must be finite numbers, got {weight}")


def _merged_rank(adapters: Sequence[StoredAdapter], combination: Combination) -> int:
    """The rank of the result, as peft counts it."""
    ranks = [adapter.rank for adapter in adapters]
    if combination != "linear":
        return sum(ranks) if combination == "cat" else max(ranks)
    instead = "use combination=svd or cat"
    if len(set(ranks)) > 1:
        raise ValueError(
            f"combination=linear needs adapters of one rank, got {', '.join(map(str, ranks))}: "
            f"{instead}"
        )
    for module in _modules(adapters):
        of_module = {a.pairs[module].rank for a in adapters if module in a.pairs}
        if len(of_module) > 1:
            said = ", ".join(map(str, sorted(of_module)))
            raise ValueError(
                f"combination=linear needs adapters of one rank, got {said} for {module} "
                f"(rank_pattern): {instead}"
            )
    return ranks[0]


def _modules(adapters: Sequence[StoredAdapter]) -> list[str]:
    """The modules that any of the adapters adapts."""
    return list(dict.fromkeys(module for adapter in adapters for module in adapter.pairs))


def _merged_tensors(
    adapters: Sequence[StoredAdapter],
    weights: Sequence[float],
    combination: Combination,
    rank: int,
) -> dict[str, np.ndarray]:
    """The tensors by name without prefix; what is stored in full is the same in all adapters."""
    tensors = {name: tensor.read() for name, tensor in adapters[0].others.items()}
    for module in _modules(adapters):
        having = [(a, w) for a, w in zip(adapters, weights, strict=True) if module in a.pairs]
        pairs = [adapter.weighted(module, weight) for adapter, weight in having]
        names = having[0][0].pairs[module].names
        tensors |= zip(names, combine(pairs, combination, rank), strict=True)
    return tensors


def _merged_config(adapters: Sequence[StoredAdapter], rank: int) -> dict[str, Any]:
    """The contents of adapter_config.json: of the first adapter, with scaling 1 everywhere."""
    first = adapters[0].contents
    kept = (
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "modules_to_save",
        "bias",
        "lora_dropout",
        "fan_in_fan_out",
        "ensure_weight_tying",
    )
    revisions = [adapter.contents.get("revision") for adapter in adapters]
    return {name: first[name] for name in kept if name in first} | {
        "revision": next((revision for revision in revisions if revision is not None), None),
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "target_modules": _modules(adapters),
        "inference_mode": True,
        **_how_base_was_held(adapters),
    }


def _how_base_was_held(adapters: Sequence[StoredAdapter]) -> dict[str, str]:
    """The entry that says how the base was quantised in training, where it was for all alike."""
    held = [adapter.contents.get(QUANTISE) for adapter in adapters]
    if len(set(held)) > 1:
        said = ", ".join(f"{a.folder}: {kind}" for a, kind in zip(adapters, held, strict=True))
        _log.warning("the base was not held alike in all trainings (%s: %s)", QUANTISE, said)
        return {}
    return {} if held[0] is None else {QUANTISE: held[0]}


def _write(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    named = {PREFIX + name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / ADAPTER_CONFIG, config)


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
