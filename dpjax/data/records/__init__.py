"""Columns of values, checked and turned into records."""
