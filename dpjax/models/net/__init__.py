"""The layers of a transformer in Flax NNX."""
