"""Which sizes are measured on which machine."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, cast, get_args

import jax

from dpjax.basics.option_checks import check_choice

Preset = Literal["tiny", "cpu", "h200", "v5e-4", "v5p-8", "v6e-8", "pod"]
# How JAX calls the chips.
_TPU_PRESETS = {
    "TPU v5 lite": "v5e-4",
    "TPU v5e": "v5e-4",
    "TPU v5": "v5p-8",
    "TPU v5p": "v5p-8",
    "TPU v6 lite": "v6e-8",
    "TPU v6e": "v6e-8",
}


def choose_preset(asked: str | None, known: Collection[str]) -> Preset:
    """Returns the preset that is asked for; without one, that of this machine.

    Args:
        asked: a preset's name, or None.
        known: those that the benchmark has.

    Raises:
        ValueError: there is no such preset; the message names the nearest.
    """
    preset = preset_of_devices() if asked is None else asked
    check_choice("preset", preset, tuple(known))
    return cast(Preset, preset)


def preset_of_devices() -> str:
    """Returns cpu, h200 for any GPU, or that of the TPU; pod has to be asked for.

    Raises:
        ValueError: a kind of TPU for which there is no preset.
    """
    backend = jax.default_backend()
    if backend != "tpu":
        return "cpu" if backend == "cpu" else "h200"
    kind = jax.devices()[0].device_kind
    if kind not in _TPU_PRESETS:
        raise ValueError(
            f"there is no preset for {kind}; choose the nearest with --preset: "
            f"{', '.join(get_args(Preset))}"
        )
    return _TPU_PRESETS[kind]
