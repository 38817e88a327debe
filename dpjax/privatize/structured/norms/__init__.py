"""Norms and sums of gradients from their parts."""
