"""Poisoned training records: how they are made, what they achieve, and how much privacy allows."""
