"""The options of how a run is computed, and of the texts that it writes."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from dpjax.basics.lora_config import LoraConfig
from dpjax.basics.option_checks import (
    CheckedOptions,
    check_at_least,
    check_choice,
    check_positive,
    did_you_mean,
)
from dpjax.training import parse_mesh

if TYPE_CHECKING:
    from dpjax.models import Loading, Placement


@dataclasses.dataclass(frozen=True)
class Compute(CheckedOptions):
    """How it is computed: changes time and memory, and results by rounding only.

    Example:
        >>> Compute(dtype="bfloat16").loading().param_dtype
        'float32'
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Format of activations; what is trained, clipping and noise are always float32."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Format of the checkpoint's parameters, with tuning=lora or head. bfloat16 takes half the
    memory; it rounds the parameters, unless they are in it already, and the merged model."""
    quantise: Literal["none", "int8", "nf4"] = "none"
    """Hold frozen linear layers as integers of 8 bits, or as 4-bit NormalFloat (QLoRA: Dettmers et
    al. 2023, arXiv:2305.14314), with tuning=lora or head: about 1/4 and 1/7.5 of the memory of
    float32. Rounds these layers coarsely, and so the merged model. For one device."""
    attention: Literal["einsum", "cudnn"] = "einsum"
    """cudnn is the fused kernel of an NVIDIA GPU, for dtype=bfloat16. Programs with
    it have been lowered for CUDA, and never run."""
    scan_layers: bool | Literal["auto"] = "auto"
    """Run the layers in a loop: compiles faster, for deep models. auto does so for 8 layers or
    more, where none of them is treated in another way."""
    rematerialise: bool = False
    """Compute the inside of layers again in the backward pass: needs less memory."""
    mesh: str | None = None
    """How the devices share the work, such as data=4,fsdp=2,tensor=1: records over data and fsdp,
    parameters over fsdp and tensor; default: all devices as data, if their number divides
    training.microbatch_size."""
    distributed: Literal["auto", "off"] = "auto"
    """Whether the processes of SLURM, Open MPI, a TPU pod, Kubernetes or JAX_COORDINATOR_ADDRESS
    train together: auto joins them where there are several; off trains in this process alone."""
    vocab_chunk: int | Literal["auto"] | None = "auto"
    """With task=causal_lm or preference, hold the logits of this many tokens of the vocabulary at
    once; None: of all. auto takes 4096, or less, where all logits of a microbatch would be more
    than 1/32 of a device's memory."""
    cache_frozen: Literal["auto", "never"] = "auto"
    """auto computes what the frozen layers below everything trained make of a record once, before
    the first step, and keeps it in this machine's memory, where it fits: steps of tuning=head or
    last_layers, of lora in upper layers, or of task=preference are faster. never computes it in
    each step again."""
    device_memory_gb: float | None = None
    """How many GB (10⁹ bytes) one device can use, for what dpjax chooses: how gradients are
    clipped, vocab_chunk=auto and training.microbatch_size=auto; default: what the device tells or
    is known to have."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_choice("compute.dtype", self.dtype, ("float32", "bfloat16"))
        check_choice("compute.frozen_dtype", self.frozen_dtype, ("float32", "bfloat16"))
        check_choice("compute.quantise", self.quantise, ("none", "int8", "nf4"))
        check_choice("compute.attention", self.attention, ("einsum", "cudnn"))
        check_choice("compute.distributed", self.distributed, ("auto", "off"))
        check_choice("compute.cache_frozen", self.cache_frozen, ("auto", "never"))
        if self.mesh is not None:
            parse_mesh(self.mesh, name="compute.mesh")
        if isinstance(self.scan_layers, str):
            check_choice("compute.scan_layers", self.scan_layers, ("auto",))
        if isinstance(self.vocab_chunk, str) and self.vocab_chunk != "auto":
            raise ValueError(
                "compute.vocab_chunk must be a whole number, auto, or None for all tokens, got "
                f"{self.vocab_chunk!r}." + did_you_mean(self.vocab_chunk, ("auto", "None"))
            )
        if not isinstance(self.vocab_chunk, str):
            check_at_least("compute.vocab_chunk", self.vocab_chunk, 1)
        if self.device_memory_gb is not None and not 1e-9 <= self.device_memory_gb < math.inf:
            raise ValueError(
                "compute.device_memory_gb must be a positive number of GB (10⁹ bytes), got "
                f"{self.device_memory_gb}"
            )

    @property
    def device_memory(self) -> int | None:
        """Bytes that one device can use; None where nobody has said."""
        return None if self.device_memory_gb is None else round(self.device_memory_gb * 1e9)

    def loading(self, placement: Placement | None = None) -> Loading:
        """Returns how the checkpoint is loaded; without a placement onto the first device.

        With scan_layers=auto layers are unrolled: a run that is set up knows what auto comes to.
        """
        from dpjax.models import Loading

        return Loading(
            param_dtype=self.frozen_dtype,
            dtype=self.dtype,
            attention=self.attention,
            scan_layers=self.scan_layers is True,
            rematerialise=self.rematerialise,
            quantise=self.quantise,
            placement=placement,
        )


@dataclasses.dataclass(frozen=True)
class Generation(CheckedOptions):
    """Texts that the tuned model writes for the report, where records have prompts.

    Example:
        >>> Generation(num_prompts=2).max_new_tokens
        64
    """

    num_prompts: int = 8
    """How many held-out prompts are answered; 0 for none."""
    max_new_tokens: int = 64
    """Longest answer."""
    suspicion: float | None = None
    """Defend against poisoned records while writing: a token that the tuned model finds at least so
    many times as probable as the checkpoint does is replaced by that of the checkpoint; 20 is
    usual. For tuning=lora, which keeps the checkpoint at hand. Default: no defence."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        check_at_least("generation.num_prompts", self.num_prompts, 0)
        check_positive("generation.suspicion", self.suspicion)
        check_at_least("generation.max_new_tokens", self.max_new_tokens, 1)

    def check_reference(self, tuning: str, lora: LoraConfig) -> None:
        """Raises ValueError if the checkpoint is to be compared with and is not kept as it was."""
        trains_base = lora.bias != "none" or bool(lora.modules_to_save)
        if self.suspicion is not None and (tuning != "lora" or trains_base):
            raise ValueError(
                f"generation.suspicion={self.suspicion} compares with the checkpoint, which only "
                "adapters leave as it is: give tuning=lora without lora.bias and "
                "lora.modules_to_save, or leave it out"
            )
