"""Gaussian noise that is correlated over steps by a strategy matrix."""
