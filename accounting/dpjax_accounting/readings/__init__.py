"""What else a mechanism can be asked: profiles, trade-offs, bounds, ε by step."""
