"""What a gradient is a sum of."""
