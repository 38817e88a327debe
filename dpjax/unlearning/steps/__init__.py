"""Steps that change an adapter: Adam on a loss, or certified noisy ones; both store states."""
