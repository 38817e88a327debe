"""Which way to a clipped sum is cheapest, and why, in words."""
