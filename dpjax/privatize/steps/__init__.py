"""What a private training step consists of: its batches, its sums, and the checks before noise."""
