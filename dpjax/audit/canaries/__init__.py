"""Records planted by secret coins, and the sealed record of which ones were."""
