"""What a privacy report says of a run of any model."""
