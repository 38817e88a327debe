"""What several benchmarks share: models, steps, timing, pictures."""
