"""What peft warns of, whatever is tested."""

import pytest

# It asks transformers for an attribute under its old name.
IGNORE_OLD_NAME = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
