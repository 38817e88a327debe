"""What was done to the data: one description a file."""
