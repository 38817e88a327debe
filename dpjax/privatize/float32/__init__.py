"""Arithmetic in float32 whose results are never too small."""
