"""Noisy fine-tuning on retained records, and the (ε, δ)-unlearning that it proves."""
