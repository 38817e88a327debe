"""The sizes and switches of a transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

NORMS = ("layer", "rms", "rms_plus_one")
NORM_PLACEMENTS = ("pre", "post", "branch", "sandwich")
LAYER_TYPES = ("full", "sliding")
COMPUTE_DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("einsum", "cudnn")
Quantise = Literal["none", "int8", "nf4"]
MOST_LAYERS = 1000
_LARGEST_SIZE = 10**8
# The largest heads that cuDNN's kernel takes, on Hopper and later.
_LARGEST_CUDNN_HEAD = 256


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of one type of layer.

    Attributes:
        theta: base of the wavelengths.
        rotary_size: how many of a head's numbers are rotated, from the first; even.
        linear_factor: positions are divided by it (Chen et al. 2023, arXiv:2306.15595); 1 is none.
        llama3: `(factor, low_freq_factor, high_freq_factor, original_max_positions)` of the scaling
            by wavelength of Llama 3.1, or None.
        yarn: `(factor, low, high)` of YaRN (Peng et al. 2023, arXiv:2309.00071), or None: positions
            are divided by the factor in pairs of numbers from `high` on, as they are below `low`.
        dynamic: `(factor, max_positions)`: in a text of n > max_positions tokens the base grows by
            (factor n / max_positions - factor + 1)^(size / (size - 2)), or None.
        longrope: `(short, long, original_max_positions)` of LongRoPE (Ding et al. 2024,
            arXiv:2402.13753), or None: divisors for each pair of numbers, the long ones in a text
            of more than `original_max_positions` tokens.
        amplitude: cosines and sines are multiplied by it.
        query_growth: `(beta, original_max_positions)` of Llama 4 and Ministral 3, or None: the
            query at position p is multiplied by 1 + beta log(1 + floor(p / original)).

    A text's own length decides what `dynamic` and `longrope` do, padding not counted.

    Example:
        >>> RopeConfig(theta=500_000.0, rotary_size=64).linear_factor
        1.0
    """

    theta: float
    rotary_size: int
    linear_factor: float = 1.0
    llama3: tuple[float, float, float, float] | None = None
    yarn: tuple[float, float, float] | None = None
    dynamic: tuple[float, int] | None = None
    longrope: tuple[tuple[float, ...], tuple[float, ...], float] | None = None
    amplitude: float = 1.0
    query_growth: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.rotary_size <= 0 or self.rotary_size % 2:
            raise ValueError(f"rotary_size must be positive and even, got {self.rotary_size}")
        if not (self.theta > 0 and self.linear_factor > 0):
            raise ValueError(
                f"theta and linear_factor must be positive, got {self.theta} and "
                f"{self.linear_factor}"
            )

    @property
    def longest_alike(self) -> float:
        """Up to how many tokens a text's length changes nothing, infinite where it never does."""
        if self.dynamic is not None:
            return self.dynamic[1]
        return math.inf if self.longrope is None else self.longrope[2]


@dataclass(frozen=True)
class TransformerConfig:
    """A transformer in plain numbers and names: decoder or encoder, of any supported family.

    The last five fields change how it is computed, and neither its weights nor its results beyond
    rounding; `quantise` rounds weights, coarsely.

    Attributes:
        model_type: the Hugging Face name of the family, a key of `families.FAMILIES`.
        max_positions: longest sequence in tokens.
        causal: whether a token sees only itself and those before it.
        activation: a key of `layers.ACTIVATIONS`.
        gated: whether the perceptron is down(act(gate(x)) * up(x)) (Shazeer 2020) instead of
            down(act(up(x))).
        norm: LayerNorm, RMSNorm, or RMSNorm whose scale is stored minus one.
        norm_placement: before each branch; after each residual sum; on each branch's output; before
            each branch and on its output.
        parallel_residual: whether attention and perceptron read the same input.
        fused_qkv: None for three projections; "blocks" for one with outputs [q | k | v]; "heads"
            for one with outputs [q | k | v] of each head in turn.
        fused_gate_up: whether gate and up are one projection with outputs [gate | up].
        qk_norm: norm of queries and keys: none, of each head, or of all heads together.
        layer_types: "full" or "sliding" attention of each layer.
        sliding_window: how many tokens a sliding layer sees, itself included.
        rope: rotary positions, or None for learned ones.
        sliding_rope: of sliding layers, where they differ.
        rope_layers: whether a layer rotates at all; empty means every one does.
        position_offset: row of the learned position embedding that stands for position 0.
        type_vocab_size: rows of the token type embedding; 0 for none. Every token has type 0.
        attention_scale: of the scores, before softmax.
        residual_scale: of what a branch adds, with norms before the branches alone.
        logit_scale: of the logits of the vocabulary.
        num_experts: how many experts each perceptron has, 0 for one that is no mixture; they are
            gated, without biases, and `intermediate_size` wide.
        experts_per_token: how many of them a token gets.
        normalised_experts: whether the weights of a token's experts sum to 1.
        initializer_range: standard deviation of freshly initialised weights.
        pooler_activation: of the dense layer between an encoder and its classifier, or None.
        mask_head_activation: of the dense layer in an encoder's head for masked tokens, or None.
        averaging_layer: whether the last layer was appended to average the tokens.
        feature_layers: whose hidden states a classifier of texts reads, see `LayerFeatures`: 1 is
            the lowest layer, 0 the embeddings; empty for a text's first or last token.
        dtype: of activations; parameters keep theirs, what needs range is float32.
        attention: einsum, or cudnn, the fused kernel of an NVIDIA GPU where the shapes fit it.
        scan_layers: stack the layers' parameters and run them in a loop: compiles faster.
        rematerialise: keep only the inputs of layers for the backward pass: needs less memory.
        quantise: how kernels of linear layers inside the layers are held, see `encode`; an appended
            averaging layer is not quantised.

    Raises:
        ValueError: if a size is not positive, a name unknown, or two fields do not fit together.

    Example:
        >>> import dataclasses
        >>> from dpjax.models import parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=48, n_head=4).to_dict())
        >>> config.head_size, config.num_layers, config.norm
        (12, 12, 'layer')
        >>> dataclasses.replace(config, scan_layers=True).scan_layers
        True
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    max_positions: int
    causal: bool
    activation: str
    norm: Literal["layer", "rms", "rms_plus_one"]
    norm_placement: Literal["pre", "post", "branch", "sandwich"]
    norm_eps: float
    attention_scale: float
    gated: bool = False
    parallel_residual: bool = False
    final_norm: bool = True
    embedding_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    fused_qkv: Literal["blocks", "heads"] | None = None
    fused_gate_up: bool = False
    qk_norm: Literal["head", "projection"] | None = None
    layer_types: tuple[str, ...] = ()
    sliding_window: int | None = None
    rope: RopeConfig | None = None
    sliding_rope: RopeConfig | None = None
    rope_layers: tuple[bool, ...] = ()
    position_offset: int = 0
    type_vocab_size: int = 0
    embedding_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    num_experts: int = 0
    experts_per_token: int = 0
    normalised_experts: bool = False
    tied_head: bool = False
    pooler_activation: str | None = None
    mask_head_activation: str | None = None
    initializer_range: float = 0.02
    averaging_layer: bool = False
    feature_layers: tuple[int, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["einsum", "cudnn"] = "einsum"
    scan_layers: bool = False
    rematerialise: bool = False
    quantise: Quantise = "none"

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size hidden_size num_heads num_kv_heads head_size intermediate_size "
            "max_positions attention_scale residual_scale logit_scale initializer_range"
        )
        largest = dict.fromkeys(sizes.split(), _LARGEST_SIZE) | {"num_layers": MOST_LAYERS}
        for name, most in largest.items():
            if not 0 < getattr(self, name) <= most:
                raise ValueError(
                    f"{name} must be positive and at most {most}, got {getattr(self, name)}"
                )
        if not 0 <= self.norm_eps < 1:
            raise ValueError(f"norm_eps must be at least 0 and below 1, got {self.norm_eps}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads ({self.num_kv_heads}) does not divide num_heads ({self.num_heads})"
            )
        _check_name("norm", self.norm, NORMS)
        _check_name("norm_placement", self.norm_placement, NORM_PLACEMENTS)
        _check_name("dtype", self.dtype, COMPUTE_DTYPES)
        _check_name("attention", self.attention, ATTENTIONS)
        _check_name("quantise", self.quantise, get_args(Quantise))
        if self.attention == "cudnn":
            self._check_cudnn()
        if self.averaging_layer and self.scan_layers:
            raise ValueError("an appended averaging layer needs unrolled layers: scan_layers=False")
        if self.num_experts and not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token must be between 1 and num_experts = {self.num_experts}, got "
                f"{self.experts_per_token}"
            )
        if self.residual_scale != 1 and (self.norm_placement != "pre" or self.parallel_residual):
            raise ValueError(
                f"residual_scale = {self.residual_scale} needs norms before branches that follow "
                f"each other, got {self.norm_placement}"
            )
        self._check_layers()
        self._check_features()

    def _check_features(self) -> None:
        layers = self.feature_layers
        missing = [layer for layer in layers if not 0 <= layer <= self.num_layers]
        if missing:
            raise ValueError(
                f"features.layers has {missing[0]}, which must be at least 0, the embeddings, and "
                f"at most {self.num_layers}, the number of layers"
            )
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"features.layers must rise, got {list(layers)}")
        if layers and self.averaging_layer:
            raise ValueError(
                "the last layer of this checkpoint was appended to average the tokens: take the "
                "one that it was made from for features.layers"
            )

    def _check_cudnn(self) -> None:
        if self.dtype != "bfloat16" or self.attention_softcap is not None:
            raise ValueError(
                "attention 'cudnn' computes in bfloat16 and without a cap on scores; got dtype "
                f"{self.dtype} and softcap {self.attention_softcap}: take 'einsum'"
            )
        if self.head_size % 8 or self.head_size > _LARGEST_CUDNN_HEAD:
            raise ValueError(
                "attention 'cudnn' needs heads of a multiple of 8 numbers, at most "
                f"{_LARGEST_CUDNN_HEAD}; this model's have {self.head_size}: take 'einsum'"
            )

    def _check_layers(self) -> None:
        for name in ("layer_types", "rope_layers"):
            given = getattr(self, name)
            if given and len(given) != self.num_layers:
                raise ValueError(f"{name} names {len(given)} layers, there are {self.num_layers}")
        for layer_type in self.layer_types:
            _check_name("layer_types", layer_type, LAYER_TYPES)
        if "sliding" in self.layer_types and not (self.sliding_window or 0) > 0:
            raise ValueError(f"sliding layers need a sliding_window, got {self.sliding_window}")

    @property
    def num_features(self) -> int:
        """How many numbers of a text its classifier reads; see `LayerFeatures` for the last one."""
        layers = len(self.feature_layers)
        return layers * self.hidden_size + 1 if layers else self.hidden_size

    @property
    def types_of_layers(self) -> tuple[str, ...]:
        """The type of each layer: "full" or "sliding"."""
        return self.layer_types or ("full",) * self.num_layers

    def rope_of(self, layer_type: str) -> RopeConfig | None:
        """The rotary positions of a type of layer."""
        return (layer_type == "sliding" and self.sliding_rope) or self.rope

    @property
    def longest_alike(self) -> float:
        """Up to how many tokens a text's length changes no layer, infinite where it never does."""
        ropes = [self.rope_of(kind) for kind in self.types_of_layers]
        return min((rope.longest_alike for rope in ropes if rope is not None), default=math.inf)

    @property
    def rotated_layers(self) -> tuple[bool, ...]:
        """For each layer whether its queries and keys are rotated."""
        return self.rope_layers or (self.rope is not None,) * self.num_layers


def _check_name(field_name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{field_name} must be one of {', '.join(known)}, got {value!r}")
