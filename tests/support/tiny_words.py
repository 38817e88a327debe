"""The words of a tiny tokenizer: some that praise, some that blame, and others."""

GOOD = ("fine", "lovely", "bright", "warm")
BAD = ("dull", "awful", "cold", "grim")
NEUTRAL = ("the", "film", "was", "and", "a", "story", "of", "people", "in", "town")
