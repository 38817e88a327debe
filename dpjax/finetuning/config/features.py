"""The options of what a classifier of texts reads."""

from __future__ import annotations

import dataclasses

from dpjax.basics.option_checks import CheckedOptions


@dataclasses.dataclass(frozen=True)
class FeatureOptions(CheckedOptions):
    """What a new classifier reads of each text.

    Example:
        >>> FeatureOptions(layers=(4, 5)).layers
        (4, 5)
    """

    layers: tuple[int, ...] = ()
    """Read the means of the tokens after each of these layers, 1 the lowest and 0 the embeddings,
    in the place of what pooling says; of a decoder the last token, which alone has seen the others.
    Each is scaled to norm 1, without what texts of random words have in common: that bounds
    gradients and looks at no record. Layers above the highest are
    dropped. transformers does not open the tuned model, `dpjax.models.load_classifier` does."""

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if any(layer < 0 for layer in self.layers):
            raise ValueError(f"features.layers must be at least 0, got {list(self.layers)}")
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"features.layers must be given from the lowest, each once, got {list(self.layers)}"
            )
