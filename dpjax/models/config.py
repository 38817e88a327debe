"""The sizes and switches of an encoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderConfig:
    """A bidirectional transformer encoder in plain numbers and names.

    `model_type` is the Hugging Face name of the family (a key of `families.FAMILIES`), `activation`
    a key of `layers.ACTIVATIONS`, `max_positions` the longest sequence in tokens and
    `initializer_range` the standard deviation of freshly initialised weights.

    Raises:
        ValueError: if a size is not positive or the heads do not divide the hidden size.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    layer_norm_eps: float
    activation: str
    initializer_range: float
    averaging_layer: bool = False
    """Whether the last layer was appended to average the tokens; it and the pooler stay as made."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) in (int, float) and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) does not divide hidden_size ({self.hidden_size})"
            )
