"""Losses on tokens, log-probabilities, and generation."""
