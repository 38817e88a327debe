"""Layers with an adapter beside them."""
