"""Clipped sums from the structure of the backward program, without per-example gradients."""
