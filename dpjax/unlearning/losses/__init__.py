"""Losses that make a model forget: formulas of numbers, and the same of a model's parameters."""
