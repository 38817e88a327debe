"""How much of its training records a language model gives back, beside held-out records."""
